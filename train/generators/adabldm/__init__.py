"""AdaBLDM: few-shot, photo-real defects by blended latent diffusion (Li et al. 2024, arXiv:2402.19330)."""
