"""Text tokens kept in halves are those of the encoder, whatever was embedded with them."""

import numpy as np

from search.match_inputs import TokenKeeper
from sightline.encoders.composed import ComposedEncoder

TEXTS = ["a red ball", "two", "the black dog on the left of a white cat", "beach photo"]


def test_kept_tokens_are_those_of_the_encoder(tiny_encoder: ComposedEncoder) -> None:
    keeper = TokenKeeper(tiny_encoder)
    embeddings = np.concatenate([keeper.embed_texts(TEXTS[:3]), keeper.embed_texts(TEXTS[3:])])
    kept = keeper.kept(["q0", "q1", "q2", "q3"])

    np.testing.assert_allclose(embeddings, tiny_encoder.embed_texts(TEXTS), atol=1e-6)
    assert kept.hidden_states.dtype == np.float16
    some = kept.of(["q3", "q1"])
    _, expected = tiny_encoder.embed_texts_with_tokens([TEXTS[3], TEXTS[1]])
    assert some.num_tokens.tolist() == expected.num_tokens.tolist()
    # Halves have eleven bits.
    np.testing.assert_allclose(some.hidden_states, expected.hidden_states, rtol=2**-10, atol=1e-4)
