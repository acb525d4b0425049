"""Tables of an answer as CSV or Arrow, and which form of it a client would rather have."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import orjson
from fastapi import Response

from api.accept import preferred
from api.uploads import ARROW, JSON
from service.errors import InvalidInput
from service.tables import write_columns

GEOJSON: Final = "application/geo+json"
CSV: Final = "text/csv"
MEDIA: Final[Mapping[str, str]] = {"geojson": GEOJSON, "json": JSON, "csv": CSV, "arrow": ARROW}

Form = TypeVar("Form", bound=str)


def chosen(asked: Form | None, accept: str | None, offered: Sequence[Form]) -> Form:
    """The form of an answer: as `f` says, else the Accept header, else the first that is offered.

    Raises:
        InvalidInput: The header names nothing that there is.
    """
    if asked:
        return asked
    forms = {MEDIA[form]: form for form in offered}
    forms.setdefault(JSON, offered[0])  # GeoJSON is JSON
    media = preferred(accept, list(forms))
    if media is None:
        remedy = f"Accept {', '.join(forms)}, or say f=."
        raise InvalidInput(f"there is no answer as {str(accept)[:60]!r}.", field="Accept", remedy=remedy)
    return forms[media]


def documents(body: Mapping[str, Any], form: str) -> Response:
    """A JSON document, encoded with orjson: a thousand hits are many floats."""
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type=MEDIA[form])


def table(columns: Mapping[str, np.ndarray], provenance: Mapping[str, str], form: str) -> Response:
    """Columns of one length as CSV or Arrow; what they were made from as headers, and as metadata of the schema.

    Args:
        columns: (n,) each; NaN is written as nothing in CSV and as null in Arrow.
        provenance: By name: `X-Smalti-Dataset` is `dataset`.
        form: `csv` or `arrow`.
    """
    body = _csv(columns) if form == "csv" else _arrow(columns, provenance)
    headers = {f"X-Smalti-{name.title()}": text for name, text in provenance.items()}
    return Response(body, media_type=MEDIA[form], headers=headers)


def _csv(columns: Mapping[str, np.ndarray]) -> bytes:
    """RFC 4180, with a header line. Numbers have as many digits as it takes to read the same number again."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(columns)
    plain = [[_plain(value) for value in column.tolist()] for column in columns.values()]
    writer.writerows(zip(*plain, strict=True))
    return file.getvalue().encode()


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value != value else value  # NaN alone is unlike itself


def _arrow(columns: Mapping[str, np.ndarray], provenance: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    write_columns(file, columns, provenance)
    return file.getvalue()
