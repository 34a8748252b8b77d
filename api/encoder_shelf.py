"""Networks that were loaded, each once, and which of them a collection is searched with.

They are imported and loaded when they are asked for, so that what needs none starts quickly.
"""

from typing import TYPE_CHECKING

from search.engine import encoder_mismatch
from sightline.encoders.encoder import Encoder
from sightline.settings import Settings
from sightline.storage.records import CollectionRecord

if TYPE_CHECKING:
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher


class EncoderShelf:
    """Encoders that were loaded, and the one that the caller chose."""

    def __init__(self, chosen: Encoder | str | None, *, settings: Settings) -> None:
        self._chosen = chosen
        self._settings = settings
        self._encoder_by_spec: dict[str, Encoder] = {}
        self._matcher_by_spec: dict[str, FusionMatcher | BlipMatcher] = {}

    @property
    def chosen_name(self) -> str | None:
        """What another process is to load to have the caller's choice; None where the settings decide."""
        return self._chosen if self._chosen is None or isinstance(self._chosen, str) else self._chosen.name

    def for_new_collection(self) -> Encoder:
        """The caller's encoder, or that of the settings."""
        return self._loaded(self._chosen if self._chosen is not None else self._settings.encoder)

    def for_collection(self, record: CollectionRecord) -> Encoder:
        """The caller's encoder, or the collection's own; raises `EncoderMismatch` when it isn't what embedded the collection."""
        encoder = self._loaded(self._chosen if self._chosen is not None else record.encoder_name)
        if encoder.fingerprint != record.encoder_fingerprint:
            raise encoder_mismatch(record, encoder)
        return encoder

    def matcher_for(self, record: CollectionRecord) -> "FusionMatcher | BlipMatcher | None":
        """The fusion encoder of the settings, or the one that the collection's encoder brings; None where there is none.

        Raises `EncoderMismatch` for one that reads another encoder's tokens, `EncoderUnavailable`.
        """
        return self._matcher(record.encoder_name, fingerprint=record.encoder_fingerprint, where=f"collection {record.name!r}")

    def matcher_of(self, encoder: Encoder, *, where: str) -> "FusionMatcher | BlipMatcher | None":
        """The same for what is in no collection yet."""
        return self._matcher(encoder.name, fingerprint=encoder.fingerprint, where=where)

    def _matcher(self, encoder_name: str, *, fingerprint: str, where: str) -> "FusionMatcher | BlipMatcher | None":
        from sightline.encoders.load import fusion_folder, load_second_stage

        spec = self._settings.fusion or fusion_folder(encoder_name)
        if spec is None:
            return None
        from sightline.encoders.matcher import FusionMatcher, check_fits

        if str(spec) not in self._matcher_by_spec:
            self._matcher_by_spec[str(spec)] = load_second_stage(str(spec), device=self._settings.device)
        matcher = self._matcher_by_spec[str(spec)]
        if isinstance(matcher, FusionMatcher):
            check_fits(matcher, encoder_fingerprint=fingerprint, where=where)
        return matcher

    def _loaded(self, encoder: Encoder | str) -> Encoder:
        if not isinstance(encoder, str):
            return encoder
        if encoder not in self._encoder_by_spec:
            from sightline.encoders.load import load_encoder

            self._encoder_by_spec[encoder] = load_encoder(encoder, device=self._settings.device)
        return self._encoder_by_spec[encoder]
