"""The flow as scoring runs it: ActNorm's gains and shifts, and FrEIA's factor, in the convolutions beside them.

Between the steps stands u with z = gain * u (per channel), so a gain costs nothing until the last step has run. The
same function as model.py's up to rounding; only training needs that one.
Shape letters: n images, h x w feature cells, c channels (channels last).
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from train.detectors.fastflow.coupling import SUBNET_SCALE, AlternateStep, DoubleStep, LogDet, Maps, Permutation, Subnet
from train.detectors.fastflow.model import FastFlow, Flow, Latent

PerChannel = Float[Array, " _c"]


class FoldedStep(nnx.Module):
    """What both kinds of step have in common: a subnet that moves one half by what the other says."""

    def __init__(self, clamp: float):
        self.clamp = clamp

    def move(self, subnet: Subnet, kept: Maps, moved: Maps) -> tuple[Maps, LogDet]:
        raw_s, t = jnp.split(subnet(kept), 2, axis=-1)
        log_s = self.clamp * jnp.tanh(raw_s)
        return moved * jnp.exp(log_s) + t, log_s.sum(-1)


class FoldedAlternate(FoldedStep):
    """AlternateStep between two gains."""

    def __init__(self, step: AlternateStep, gain: PerChannel):
        super().__init__(step.clamp)
        self.kept = step.kept
        own, shift, a, b = (
            step.act_norm.gain(),
            step.act_norm.shift[...],
            slice(None, step.kept),
            slice(step.kept, None),
        )
        after = gain * own
        self.subnet = _folded(step.subnet, gain[a], own[b] / after[b], shift[b] / after[b])
        self.shift, self.log_gain = nnx.Variable(shift[a] / after[a]), nnx.Variable(jnp.sum(jnp.log(own)))
        self.order = Permutation(step.permutation[...])
        self.gain = nnx.Variable(after[step.permutation[...]])

    def __call__(self, u: Maps) -> tuple[Maps, LogDet]:
        u_a, u_b = u[..., : self.kept], u[..., self.kept :]
        moved, log_det = self.move(self.subnet, u_a, u_b)
        u = jnp.concatenate([u_a + self.shift[...], moved], axis=-1)
        return u[..., self.order[...]], log_det + self.log_gain[...]


class FoldedDouble(FoldedStep):
    """DoubleStep between two gains."""

    def __init__(self, step: DoubleStep, gain: PerChannel):
        super().__init__(step.clamp)
        self.kept = step.kept
        own, a, b = step.act_norm.gain(), slice(None, step.kept), slice(step.kept, None)
        after = gain * own
        self.shift = nnx.Variable(step.act_norm.shift[...] / after)
        self.log_gain, self.gain = nnx.Variable(jnp.sum(jnp.log(own))), nnx.Variable(after)
        self.a_to_b = _folded(step.a_to_b, after[a], 1 / after[b], jnp.zeros_like(after[b]))
        self.b_to_a = _folded(step.b_to_a, after[b], 1 / after[a], jnp.zeros_like(after[a]))

    def __call__(self, u: Maps) -> tuple[Maps, LogDet]:
        u = u + self.shift[...]
        a, b = u[..., : self.kept], u[..., self.kept :]
        b, log_det_b = self.move(self.a_to_b, a, b)
        a, log_det_a = self.move(self.b_to_a, b, a)
        return jnp.concatenate([a, b], axis=-1), log_det_a + log_det_b + self.log_gain[...]


class FoldedFlow(nnx.Module):
    """Flow for scoring: no gradient, no inverse."""

    def __init__(self, flow: Flow):
        gain, steps = jnp.ones_like(flow.steps[0].act_norm.gamma[...]), []
        for step in flow.steps:
            folded = FoldedAlternate(step, gain) if isinstance(step, AlternateStep) else FoldedDouble(step, gain)
            steps.append(folded)
            gain = folded.gain[...]
        self.steps, self.gain = nnx.List(steps), nnx.Variable(gain)

    def __call__(self, x: Maps) -> Latent:
        log_det = jnp.zeros(x.shape[:3], x.dtype)
        for step in self.steps:
            x, step_log_det = step(x)
            log_det = log_det + step_log_det
        return Latent(x * self.gain[...], log_det)


def fold_flows(model: FastFlow) -> FastFlow:
    """The same model with flows for scoring only; they must be in float32."""
    model.flows = nnx.List([FoldedFlow(flow) for flow in model.flows if isinstance(flow, Flow)])
    return model


def _folded(subnet: Subnet, gain_in: PerChannel, gain_t: PerChannel, shift_t: PerChannel) -> Subnet:
    """Takes x for gain_in * x; gives what tanh is taken of, and gain_t * t + shift_t."""
    subnet = nnx.clone(subnet)
    bias = subnet.conv_out.bias
    assert bias is not None
    scale = SUBNET_SCALE * jnp.concatenate([jnp.ones_like(gain_t), gain_t])
    subnet.conv_in.kernel[...] = subnet.conv_in.kernel[...] * gain_in[:, None]
    subnet.conv_out.kernel[...] = subnet.conv_out.kernel[...] * scale
    bias[...] = bias[...] * scale + jnp.concatenate([jnp.zeros_like(shift_t), shift_t])
    return subnet
