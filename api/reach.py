"""From the settings to what reaches catalogues and scenes. Tokens pass through here and nowhere else."""

from __future__ import annotations

from api.settings import Scenes
from service.scenes.access import Access
from service.scenes.hosts import EARTHDATA, PLANETARY_COMPUTER, Hosts, Limits
from service.scenes.signing import KEY_HEADER
from service.store.records import Records


def access_of(settings: Scenes, records: Records) -> Access:
    """What may be reached, and how.

    Args:
        settings: By whom it may be widened.
        records: Where what was fetched stays.
    """
    headers: dict[str, tuple[str, str]] = {}
    for name, secret in settings.headers.items():
        header, _, value = secret.get_secret_value().partition(":")
        headers[name.lower().rstrip("/")] = header, value.strip()
    if settings.earthdata_token:
        token = f"Bearer {settings.earthdata_token.get_secret_value()}"
        headers |= {host: ("Authorization", token) for host in EARTHDATA if host not in headers}
    if settings.planetary_computer_key:
        headers.setdefault(PLANETARY_COMPUTER, (KEY_HEADER, settings.planetary_computer_key.get_secret_value()))
    limits = Limits(**{name: getattr(settings, name) for name in Limits.__dataclass_fields__})
    folders = tuple(folder.absolute() for folder in settings.folders)
    return Access(Hosts(settings.hosts), folders, headers, limits=limits, records=records)
