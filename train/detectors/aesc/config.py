"""Settings of an AESc run. The defaults are the authors' Keras recipe (sheet: "Training recipe")."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from train.config import RunConfig
from train.data.defect_bank import bank_digest
from train.data.noise import NoiseModel, Stain
from train.data.samples import DataError
from train.detectors.aesc.model import DEPTH

DROPOUT_RATES: dict[tuple[str, str], tuple[float, ...]] = {
    ("aesc", "seed"): (0.0, 0.0, 0.1, 0.2, 0.3, 0.4),
    ("aesc", "code"): (0.0, 0.0, 0.1, 0.2, 0.4, 0.5),
    ("ae", "code"): (0.0, 0.0, 0.0, 0.0, 0.1, 0.2),
}


class AEScConfig(RunConfig, frozen=True):
    added_later: ClassVar[frozenset[str]] = frozenset({"defects_share", "defects_digest"})

    network: Literal["aesc", "ae"] = "aesc"  # with additive skips, or the baseline without
    filters: int = Field(16, ge=1)  # of the first level; doubled at each of six
    norm_momentum: float = Field(0.99, ge=0, lt=1)  # of batch normalisation's running statistics; Keras' default
    form: Literal["auto", "plain", "fast"] = "auto"  # exact rewrites of the convolutions; auto: fast on a CPU

    noise: NoiseModel = "stain"
    stain_smallest: float = Field(0.01, ge=0, le=0.5)  # semi-axis as a share of the side
    stain_largest: float = Field(0.12, gt=0, le=0.45)
    stain_darkest: int = Field(10, ge=0, le=255)  # grey levels
    stain_brightest: int = Field(220, ge=0, le=255)
    stain_irregularity: float = Field(0.1, ge=0, le=0.5)
    stain_blur: float = Field(0.0, ge=0, le=0.5)

    # Generated defects, a folder that `synthesize` wrote: pasted on this share of the images in place of the noise
    defects: Path | None = Field(None, exclude=True)
    defects_share: float = Field(0.0, ge=0, le=1)
    defects_digest: str = ""  # of that folder; found, not set

    scoring: Literal["by_contrast", "residual", "uncertainty"] = "by_contrast"
    defect_contrast: Literal["high", "low"] = "high"  # of the expected defects against what surrounds them
    dropout_rates: Literal["seed", "code"] | tuple[float, ...] = "seed"  # uncertainty only; training has no dropout
    dropout_passes: int = Field(30, ge=2)
    quantise: bool = False  # round the reconstruction to whole grey levels first, as the authors do

    @property
    def generated_defects(self) -> Path | None:
        return self.defects

    @property
    def stain(self) -> Stain:
        return Stain(
            self.stain_smallest,
            self.stain_largest,
            self.stain_darkest,
            self.stain_brightest,
            self.stain_irregularity,
            self.stain_blur,
        )

    @property
    def scoring_mode(self) -> Literal["residual", "uncertainty"]:
        """The seed's contrast rule: defects that stand out -> residual; defects that hardly do -> uncertainty."""
        if self.scoring != "by_contrast":
            return self.scoring
        return "residual" if self.defect_contrast == "high" else "uncertainty"

    @property
    def level_rates(self) -> tuple[float, ...]:
        """Dropout rate of each of the six levels. The seed gives none for AE: there the code's stand in."""
        if not isinstance(self.dropout_rates, str):
            return self.dropout_rates
        return DROPOUT_RATES.get((self.network, self.dropout_rates), DROPOUT_RATES[self.network, "code"])

    @model_validator(mode="before")
    @classmethod
    def _defects_by_digest(cls, settings: Any) -> Any:
        """A run knows which defects it was trained with when their folder is gone."""
        if not isinstance(settings, dict) or settings.get("defects") is None:
            return settings
        try:
            found = bank_digest(Path(settings["defects"]))
        except DataError as error:
            raise ValueError(str(error).removesuffix(".")) from None
        if settings.get("defects_digest", found) != found:
            raise ValueError(
                f"defects is {settings['defects']}, which does not hold what this run was started with. Name that "
                "folder, or start a new run"
            )
        return {**settings, "defects_digest": found}

    @model_validator(mode="after")
    def _defects_are_used(self) -> "AEScConfig":
        if bool(self.defects_share) != bool(self.defects_digest):
            missing = "defects=FOLDER" if self.defects_share else "defects_share=0.5, or 1 for no other noise"
            raise ValueError(f"defects and defects_share go together. Set {missing} too")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "AEScConfig":
        if self.image_size % 2**DEPTH:
            near = max(round(self.image_size / 2**DEPTH), 1) * 2**DEPTH
            raise ValueError(
                f"image_size is {self.image_size}; AESc halves its image six times, so it must be a multiple of 64. "
                f"The nearest is {near}"
            )
        if self.stain_smallest > self.stain_largest or self.stain_darkest > self.stain_brightest:
            raise ValueError("stain_smallest and stain_darkest must not exceed stain_largest and stain_brightest")
        if len(self.level_rates) != DEPTH or not all(0 <= rate < 1 for rate in self.level_rates):
            raise ValueError(f"dropout_rates is {self.level_rates}; give six rates from 0 to below 1, one per level")
        if not any(self.level_rates) and self.scoring_mode == "uncertainty":
            raise ValueError("dropout_rates are all 0, so every pass would be the same; uncertainty needs one above 0")
        return self
