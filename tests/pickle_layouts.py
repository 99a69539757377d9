"""The same clips in the form of each public layout of pickles, written as the code of its authors expects them.

Clips are a dict split -> {id, group, audio, video, text, sentiment, emotion}: features `[N, D]` or `[N, L, D]`, sentiment
real `[N]`, emotion class numbers `[N]`.
"""

import numpy as np

SIX_WAY = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
MELD = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
MULT = ("neutral", "happy", "sad", "angry")
SPLITS = ("train", "validation", "test")


def make_clips(rows=(12, 8, 10), words=5, steps=None, classes=6, seed=0):
    """Random clips, text padded in front; audio and video are sequences of `steps` if that is given."""
    rng = np.random.default_rng(seed)
    clips, start = {}, 0
    for split, count in zip(SPLITS, rows):
        text = rng.normal(size=(count, words, 3)).astype("f4")
        for row, length in enumerate(rng.integers(1, words + 1, count)):
            text[row, : words - length] = 0
        shape = (count,) if steps is None else (count, steps)
        emotion = np.arange(count) % classes
        clips[split] = {
            "id": [f"video{(start + n) // 2}$_${(start + n) % 2}" for n in range(count)],
            "group": [f"video{(start + n) // 2}" for n in range(count)],
            "audio": rng.normal(size=(*shape, 5)).astype("f4"),
            "video": rng.normal(size=(*shape, 4)).astype("f4"),
            "text": text,
            "sentiment": np.round(rng.uniform(-3, 3, count), 3).astype("f4"),
            "emotion": emotion,
        }
        start += count
    return clips


def one_per_class(clips, classes):
    """Class numbers as columns of 0 and 1, `[N, classes]`."""
    return np.eye(classes)[clips["emotion"]]


def mult_iemocap(clips):
    """One-hot pairs `[N, 4, 2]`, no ids."""
    return {
        {"validation": "valid"}.get(split, split): {
            "text": one["text"],
            "audio": one["audio"].astype("f8"),
            "vision": one["video"],
            "labels": np.stack([1 - one_per_class(one, 4), one_per_class(one, 4)], axis=2).astype("i8"),
        }
        for split, one in clips.items()
    }


def mult_mosei(clips):
    """``labels [N, 1, 1]``, ``id [N, 3]`` of objects: video, begin, end; audio with -inf."""
    found = {}
    for split, one in clips.items():
        audio = one["audio"].copy()
        audio[0] = -np.inf
        times = [[group, str(n), str(n + 1)] for n, group in enumerate(one["group"])]
        found[{"validation": "valid"}.get(split, split)] = {
            "text": one["text"],
            "audio": audio,
            "vision": one["video"],
            "labels": one["sentiment"].reshape(-1, 1, 1),
            "id": np.array(times, object),
        }
    return found


def mmsa(clips, classes=("Negative", "Neutral", "Positive")):
    """MMSA, not aligned: token ids, lengths, raw text as objects, real labels, and classes by name and number."""
    found = {}
    for split, one in clips.items():
        count, length = len(one["id"]), one["text"].shape[1]
        kinds = np.sign(np.round(one["sentiment"])).astype(int) + 1
        tokens = np.zeros((count, 3, length), "f4")
        tokens[:, 0], tokens[:, 1] = 101, 1
        raw = np.empty(count, object)
        raw[:] = [f"clip {n}, \u4f60\u597d" for n in range(count)]
        found[{"validation": "valid"}.get(split, split)] = {
            "raw_text": raw,
            "audio": one["audio"],
            "vision": one["video"],
            "id": list(one["id"]),
            "text": one["text"],
            "text_bert": tokens,
            "audio_lengths": [3] * count,
            "vision_lengths": [3] * count,
            "annotations": np.array([classes[kind] for kind in kinds]),
            "classification_labels": kinds.astype("f4"),
            "regression_labels": one["sentiment"],
        }
    return found


def sims(clips):
    """CH-SIMS: MMSA with labels of single modalities, and classes by number only."""
    found = mmsa(clips)
    for part in found.values():
        del part["annotations"]
        for modality in "TAV":
            part[f"regression_labels_{modality}"] = -part["regression_labels"]
    return found


def lmf(clips, labels="sentiment"):
    """LMF's mosi.pkl and pom.pkl: vectors, ``label [N, 1]`` or ``[N, 16]``."""
    return {
        {"validation": "valid"}.get(split, split): {
            "covarep": one["audio"].astype("f8"),
            "facet": one["video"].astype("f8"),
            "glove": one["text"],
            "label": one[labels].reshape(len(one["id"]), -1).astype("f8"),
        }
        for split, one in clips.items()
    }


def dialogue_parts(clips, labels="emotion"):
    """The parts of the tuples by name: dicts dialogue -> list of utterances; test is the last split, all others train."""
    parts = {name: {} for name in ("ids", "speakers", "labels", "text", "audio", "video", "sentences")}
    names = {split: [] for split in clips}
    for split, one in clips.items():
        for n, group in enumerate(one["group"]):
            if group not in parts["ids"]:
                for part in parts.values():
                    part[group] = []
                names[split].append(group)
            parts["ids"][group].append(one["id"][n])
            parts["speakers"][group].append("MF"[n % 2])
            parts["labels"][group].append(one[labels][n].item())
            parts["sentences"][group].append(f"sentence {n}")
            for modality in ("text", "audio", "video"):
                parts[modality][group].append(one[modality][n])
    train = [name for split in clips if split != "test" for name in names[split]]
    return parts, train, names["test"]


def dialogue_tuple(clips, form="9", labels="emotion"):
    """Tuples of 9, MELD's 9, 10, 12 and 13 parts."""
    parts, train, test = dialogue_parts(clips, labels)
    sentiment = {name: [0] * len(one) for name, one in parts["labels"].items()}
    wrong = {name: [vector + 1 for vector in one] for name, one in parts["text"].items()}
    first = [parts["ids"], parts["speakers"], parts["labels"], parts["text"]]
    video = [] if form == "9 of MELD" else [parts["video"]]
    versions = [wrong] * 3 if form in ("12", "13") else []
    last = [sentiment] if form in ("9 of MELD", "10", "13") else []
    return (*first, *versions, parts["audio"], *video, parts["sentences"], set(train), test, *last)


def corect(clips):
    """Lists of dicts per split; text of a dialogue is one array."""
    parts, train, test = dialogue_parts(clips)
    own = {name: split for split, one in clips.items() for name in one["group"]}
    found = {"train": [], "dev": [], "test": []}
    for name in [*train, *test]:
        found[{"validation": "dev"}.get(own[name], own[name])].append(
            {
                "vid": name,
                "speakers": parts["speakers"][name],
                "labels": parts["labels"][name],
                "audio": parts["audio"][name],
                "visual": parts["video"][name],
                "text": np.stack(parts["text"][name]),
                "sentence": parts["sentences"][name],
            }
        )
    return found


def bc_lstm(clips, modality, classes=2):
    """One modality: videos padded to one length, one-hot labels, lengths; validation belongs to train."""
    parts, train, test = dialogue_parts(clips)
    longest = max(len(one) for one in parts["labels"].values())
    found = []
    for names in (train, test):
        size = parts[modality][names[0]][0].shape
        data = np.zeros((len(names), longest, *size), "f4")
        labels = np.zeros((len(names), longest, classes), "f4")
        for v, name in enumerate(names):
            for u, vector in enumerate(parts[modality][name]):
                data[v, u] = vector
                labels[v, u, parts["labels"][name][u]] = 1
        found += [data, labels]
    lengths = [[len(parts["labels"][name]) for name in names] for names in (train, test)]
    return (*found, longest, *lengths)
