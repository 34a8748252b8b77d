"""A made-up world, whose pictures are things on a grid and whose captions name them, as an encoder's cached tokens."""

import numpy as np

from sightline.encoders.fusion_encoder import FusionEncoderConfig
from sightline.training.token_cache import NUM_PATCHES, CachedTokens

NUM_THINGS, TOKEN_DIM, WORD_DIM, EMBEDDING_DIM = 12, 24, 16, 8
PATCHES_PER_THING = 6
CONFIG = FusionEncoderConfig(
    token_dim=TOKEN_DIM, text_width=WORD_DIM, grid_height=7, grid_width=7, width=32, num_layers=1, num_heads=2, hidden_dim=48
)


def scenes(num_pictures: int, *, seed: int) -> CachedTokens:
    """Pictures of two things, each on a few patches among noise; one caption [begin, thing, thing] each; two views."""
    world = np.random.default_rng(0)
    codes, words = world.standard_normal((NUM_THINGS, TOKEN_DIM)), world.standard_normal((NUM_THINGS + 1, WORD_DIM))
    coarse = world.standard_normal((NUM_THINGS, EMBEDDING_DIM))  # what the dual encoder makes of a thing
    generator = np.random.default_rng(seed)
    things = np.stack([generator.choice(NUM_THINGS, 2, replace=False) for _ in range(num_pictures)])
    tokens = generator.standard_normal((num_pictures * 2, NUM_PATCHES, TOKEN_DIM)) * 0.3
    places = generator.permuted(np.tile(np.arange(NUM_PATCHES), (num_pictures * 2, 1)), axis=1)  # (rows, patches)
    for row, patches in enumerate(places[:, : 2 * PATCHES_PER_THING].reshape(-1, 2, PATCHES_PER_THING)):
        tokens[row, patches] += codes[things[row // 2], np.newaxis]
    embeddings = coarse[things].sum(axis=1)
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    captions = np.concatenate([np.full((num_pictures, 1), NUM_THINGS), things], axis=1)  # (pictures, words)
    return CachedTokens(
        image_tokens=tokens.astype(np.float16),
        image_embeddings=np.repeat(embeddings, 2, axis=0),
        is_readable=np.ones(num_pictures, dtype=np.bool_),
        text_tokens=words[captions].reshape(-1, WORD_DIM).astype(np.float16),
        text_token_ids=captions.reshape(-1),
        text_start=np.arange(num_pictures + 1) * 3,
        text_embeddings=embeddings,
        picture_by_text=np.arange(num_pictures),
        caption_ids=np.sort(things, axis=1) @ np.array([100, 1]),
        num_views=2,
    )
