"""Phone numbers as platforms write them, in E.164 where they can be read as numbers."""

from __future__ import annotations

import re
from functools import lru_cache

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


def normalise(text: str | None, region: str | None) -> tuple[str | None, str | None]:
    """A number in E.164, and the platform's text where that is not the same.

    `region` is the ISO 3166 code of the country whose national numbers the text may be in. A text that is no valid
    number there gives none: a guess would be somebody else's phone. That is so of a + and digits too: +4903012345678
    has a nought of the trunk in it, and there is no country +999. An extension is only in the text.
    """
    if text is None or text == "":
        return None, None
    # Whose form it is already needs no region, and is read the same for all of them.
    return _read(text, None if _E164.fullmatch(text) else region)


# The same few numbers (a shop's own, given for many customers) come again and again, and reading one is slow.
@lru_cache(maxsize=4096)
def _read(text: str, region: str | None) -> tuple[str | None, str | None]:
    # Here, for it takes 40 ms that a start has no use for.
    import phonenumbers

    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None, text
    if not phonenumbers.is_valid_number(number):
        return None, text
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return (written if _E164.fullmatch(written) else None), None if written == text else text
