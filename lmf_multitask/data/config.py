"""How data files are read."""

from __future__ import annotations

from typing import Literal

from lmf_multitask.config import setting, settings


@settings
class DataConfig:
    """How the data file is read."""

    label_column: Literal[0, 1] | None = setting(
        default=None, help="which column of one-hot labels means present; null decides by evidence"
    )
    non_finite: Literal["zero", "error"] = setting(
        default="zero", help="NaN and infinities in features: set to zero, or an error"
    )
    max_length: int | None = setting(
        default=None, help="longest sequence, in steps; the rest of longer ones is cut", ge=1, le=65536
    )
    at_threshold: Literal["absent", "not_annotated"] = setting(
        default="absent", help="what a clip exactly at the threshold of a derived task NAME:above:COLUMN:NUMBER is"
    )
    labels: list[str] | None = setting(
        default=None, help="label columns (or arrays) of a table; null: those named like emotions", min_length=1
    )
    class_column: str | None = setting(
        default=None,
        help="column with one class per clip, each of which becomes a task; null: see the documentation",
        min_length=1,
    )
    split_column: str | None = setting(
        default=None,
        help="column that names the split of each clip, in a single file; null: split, if there is one",
        min_length=1,
    )
    audio: str | None = setting(
        default=None,
        help="column, array, folder or file with the audio features; null: audio, covarep or acoustic",
        min_length=1,
    )
    video: str | None = setting(
        default=None, help="the same for video; null: video, facet, visual or vision", min_length=1
    )
    text: str | None = setting(
        default=None, help="the same for text; null: text, glove, words or language", min_length=1
    )
    feature_root: str | None = setting(
        default=None,
        help="folder that .npy paths in tables start from and may not leave; null: that of the table",
        min_length=1,
    )
    group_column: str | None = setting(
        default=None,
        help="column or key that names the speaker, session or dialogue of each clip; null: groups or group, if there is one",
        min_length=1,
    )
    cache_dir: str | None = setting(
        default=None, help="folder of the Arrow cache; null takes that of datasets", min_length=1
    )

    @property
    def chosen(self) -> dict[str, str]:
        """Modality -> the column, array, folder or file that the user chose for it."""
        names = {"audio": self.audio, "video": self.video, "text": self.text}
        return {modality: name for modality, name in names.items() if name is not None}


@settings
class ReadingOptions:
    """What commands that only read data take."""

    data: DataConfig = setting(default=DataConfig, help="how the data file is read")
