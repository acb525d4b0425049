"""GDAL, kept to the files that it is handed: it opens nothing that a name or a file's content points to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rasterio.env import set_gdal_config

REACHING_OUT: Final = (
    "DERIVED", "EEDA", "EEDAI", "GTI", "HTTP", "MRF", "OGCAPI", "PLMOSAIC", "STACIT", "STACTA", "VRT", "WCS", "WMS",
    "WMTS",
)  # fmt: skip
"""Formats whose files name other files and addresses to be read. None of them is made or read here."""
OPTIONS: Final[Mapping[str, str]] = {
    "GDAL_SKIP": ",".join(REACHING_OUT),
    "GDAL_DRIVER_PATH": "disable",  # no plug-ins
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # a file is what it is, whatever lies beside it
    "GDAL_PAM_ENABLED": "NO",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none",  # no name begins a download: stores are not read through GDAL
    "GDAL_HTTP_PROXY": "127.0.0.1:9",  # nobody listens there: for the file systems that look at no extension
    "GDAL_HTTP_TIMEOUT": "1",
    "GDAL_HTTP_MAX_RETRY": "0",
}


def closed() -> None:
    """Close GDAL for this process, once, before it opens anything: formats are registered when the first file is."""
    for name, value in OPTIONS.items():
        set_gdal_config(name, value)
