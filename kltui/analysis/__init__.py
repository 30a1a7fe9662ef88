"""Maps, KL, scale, embeddings, diffusion, weights: arrays in, arrays out."""
