"""What a file of numbers tells of itself, as tags: whose vectors these are, of when, and under which licence."""

from __future__ import annotations

from api.catalogue import DatasetWindow
from service import VERSION
from service.values import ModelIdentity, Window

TESSERA = "tessera"


def attribution(windows: tuple[Window, ...]) -> str:
    """What Copernicus asks to be said of what was made from its data; "" where there are no windows."""
    years = sorted({year for window in windows for year in range(window.start.year, window.end.year + 1)})
    return f"Contains modified Copernicus Sentinel data {', '.join(map(str, years))}" if years else ""


def tags_of(at: DatasetWindow, view: str, *, revision: bool) -> dict[str, str]:
    """GeoTIFF tags; models of TESSERA get those besides that geotessera knows a dataset by (format notes 4.2).

    Args:
        at: The dataset and window.
        view: What the bands are: `vector:128`.
        revision: Whether to name the revision. A tile's validator depends on its own blocks only, and so do its bytes.
    """
    told = {f"SMALTI_{name.upper()}": text for name, text in at.dataset.provenance(at.window).items()}
    if not revision:
        del told["SMALTI_REVISION"]
    credit = attribution((at.window,))
    return {
        **told,
        "SMALTI_VIEW": view,
        "SMALTI_LICENCE": at.dataset.licence,
        "SMALTI_ATTRIBUTION": credit,
        "TIFFTAG_SOFTWARE": f"smalti {VERSION}",
        "TIFFTAG_COPYRIGHT": at.dataset.licence if credit in at.dataset.licence else f"{at.dataset.licence}. {credit}",
        **_tessera(at.dataset.store.identity, at.window),
    }


def _tessera(identity: ModelIdentity, window: Window) -> dict[str, str]:
    if not identity.name.startswith(TESSERA) or not window.is_year:
        return {}
    return {
        "TESSERA_DATASET_VERSION": identity.version,
        "TESSERA_DATASET_VERSION_PATH": f"v{identity.version.removesuffix('.0')}",
        "TESSERA_DATASET_VARIANT": identity.variant,
        "TESSERA_YEAR": str(window),
        "TESSERA_DESCRIPTION": "TESSERA satellite embeddings",
    }
