"""Finds what a user meant by a name that is not there: nearest names, other sections, other tools, later versions.

Separate from checking because the command line asks the same questions.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmtrain.errors import Problem, quoted
from llmtrain.recipe.foreign import (
    FOREIGN,
    LATER,
    LATER_FOREIGN,
    LATER_VALUES,
    REFUSED,
    SAME_VALUES,
)
from llmtrain.recipe.nodes import Path, Spot, dotted
from llmtrain.recipe.schema import Recipe
from llmtrain.recipe.slots import SLOT_BASES, slot_table
from llmtrain.recipe.types import Key, all_keys, key_paths, keys_of, take_apart


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, letters' case ignored; None when none is close."""
    by_fold = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_fold, 1, 0.7)
    return by_fold[near[0]] if near else None


def unknown_key(path: Path, siblings: Sequence[str], spot: Spot) -> Problem:
    """The problem of a key that its section does not have."""
    name, place = str(path[-1]), spot.place()
    here = dotted(part for part in path if isinstance(part, str))
    key = dotted(path)
    if here in LATER:
        return Problem(id="E-RECIPE-013", message="not available in this version", key=key, place=place)
    word = name.replace("-", "_").lower()
    if word not in siblings and word in LATER_FOREIGN:
        message = f"another tool's name for `{LATER_FOREIGN[word]}`, which is not available in this version"
        return Problem(id="E-RECIPE-013", message=message, key=key, place=place)
    foreign = _foreign(word)
    if foreign is not None and word not in siblings and not _stands(word, FOREIGN.get(word, "")):
        return Problem(id="E-RECIPE-012", message="a name of another tool", key=key, place=place, hint=foreign)
    id = "E-CLI-002" if spot.command else "E-RECIPE-001"
    message = "unknown key on the command line" if spot.command else "unknown key"
    return Problem(id=id, message=message, key=key, place=place, hint=_hint(name, path[:-1], siblings, spot.command))


def _stands(word: str, target: str) -> bool:
    """Whether the word is a key of ours as well, in the section that the translation names."""
    return target.split(":", 1)[0].rsplit(".", 1)[-1] == word


def _foreign(word: str) -> str | None:
    if word in FOREIGN:
        return f"`{word}` is written {_ticked(FOREIGN[word])} here"
    return f"`{word}` has no counterpart here: {REFUSED[word]}" if word in REFUSED else None


def _ticked(target: str) -> str:
    return target if " or " in target or target.startswith("--") else f"`{target}`"


def _hint(name: str, section: Path, siblings: Sequence[str], whole: bool) -> str:
    """What was meant; `whole` names keys from the top, as the command line needs them."""
    word = name.replace("-", "_").lower()
    prefix = f"{dotted(section)}." if whole and section else ""
    if not siblings:
        return f"`{dotted(section)}` holds a single value"
    if word in siblings:
        return f"did you mean `{prefix}{word}`?"
    if word == "extends":
        return "it stands at the top of a recipe file; --config FILE adds a layer here"
    if (others := _other_configs(section, word)) is not None:
        return others
    owners = all_keys()
    if word in FOREIGN:
        return f"did you mean `{FOREIGN[word]}`?"
    if word in owners:
        return f"`{word}` belongs elsewhere: did you mean {_listed(owners[word])}?"
    near = nearest(name, siblings)
    if near is not None:
        return f"did you mean `{prefix}{near}`?"
    near = nearest(name, owners)
    if near is not None:
        return f"did you mean {_listed(owners[near])}?"
    near = nearest(word, FOREIGN)
    if near is not None:
        return f"did you mean `{FOREIGN[near]}`? (`{near}` in other tools)"
    where = f"in `{dotted(section)}`" if section else "at the top of a recipe"
    return f"known {where}: {_cut(siblings)}"


def _other_configs(section: Path, word: str) -> str | None:
    """For a key of a slot: which of its other names have that key."""
    if len(section) != 1 or section[0] not in SLOT_BASES:
        return None
    table = slot_table(str(section[0]))
    names = [name for name, config in table.items() if word in keys_of(config)]
    return f"`{word}` is a key of {section[0]}s named {', '.join(names)}" if names else None


def _listed(paths: Sequence[str]) -> str:
    shown = [f"`{path.replace('data.train.', 'data.train[0].')}`" for path in paths[:3]]
    return " or ".join(shown)


def _cut(names: Sequence[str], limit: int = 130) -> str:
    text = ", ".join(names)
    return text if len(text) <= limit else text[:limit].rsplit(",", 1)[0] + ", ..."


def unknown_path(path: Path, spot: Spot) -> Problem | None:
    """The problem of a dotted path the schema does not have; None when it has it.

    Keys inside free maps and inside slots are left to the checker, which knows the slot's name.
    """
    section: type | None = Recipe
    for depth, part in enumerate(path):
        if isinstance(part, int):
            continue
        if section is None:
            return None
        keys = keys_of(section)
        if part not in keys:
            return unknown_key(path[: depth + 1], list(keys), spot)
        section = _below(keys[part])
    return None


def _below(key: Key) -> type | None:
    if key.slot is not None:
        return None
    want = take_apart(key.want)
    if want.mapping is not None or want.anything:
        return None
    item = take_apart(want.item) if want.item is not None else None
    if item is not None and want.section is not None:
        return None
    if item is not None and item.section is None and (item.mapping is not None or item.anything):
        return None
    found = want.section or (item.section if item is not None else None)
    return found if found is not None else _Leaf


@dataclass(frozen=True, kw_only=True)
class _Leaf:
    """Stands for a single value, below which no key can be."""


def unknown_choice(text: str, choices: Sequence[str], path: Path) -> tuple[str, str | None]:
    """Error id and hint for a word that is not one of a key's choices."""
    key = dotted(part for part in path if isinstance(part, str))
    if text in LATER_VALUES.get(key, ()):
        return "E-RECIPE-013", None
    id = "E-RECIPE-010" if key.endswith(".name") else "E-RECIPE-003"
    if text in SAME_VALUES and SAME_VALUES[text] in choices:
        return id, f"{quoted(text)} is written `{SAME_VALUES[text]}` here"
    near = nearest(text, choices)
    return id, f"did you mean `{near}`?" if near else None


def closest_path(name: str) -> str | None:
    """The dotted key of the schema nearest to what was typed; for `llmtrain schema KEY`."""
    paths = key_paths()
    if name in all_keys():
        return all_keys()[name][0]
    if name in FOREIGN:
        return FOREIGN[name].split(":")[0]
    return nearest(name, paths)
