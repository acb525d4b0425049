"""Commands about scenes of our own: to try on-demand embedding without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api import scenery
from api.terminal import bar, console
from service.grid import Zone, archive_grid
from service.simulate import Landscape
from service.sources import Placement
from service.values import Window

scenes_app = typer.Typer(no_args_is_help=True, help="Simulated satellite scenes and their catalogue.")

Folder = Annotated[Path, typer.Argument(help="Folder of scenes and their catalogue.")]


@scenes_app.command()
def make(
    folder: Folder,
    window: Annotated[str, typer.Option(help="Days: 2024 or 2024-05-01..2024-09-30.")],
    lon: Annotated[float, typer.Option(help="Middle of the landscape, degrees.", min=-180, max=180)] = 2.3,
    lat: Annotated[float, typer.Option(help="Middle of the landscape, degrees.", min=-79, max=83)] = 54.7,
    side: Annotated[int, typer.Option(help="Pixels of 10 m along a side.", min=1, max=10_000)] = 256,
    seed: Annotated[int, typer.Option(help="Which landscape.")] = 7,
    mode: Annotated[str, typer.Option(help="As which catalogue has them: mpc or aws.")] = "mpc",
) -> None:
    """Simulate a landscape and write it as Sentinel-2 and Sentinel-1 scenes with a STAC catalogue.

    Run again with another window, it adds those days. One landscape and one mode a folder.
    """
    from service.simulate.scenes import publish  # brings pystac, which only this needs

    zone = Zone.of(lon, lat)
    row, col = archive_grid(zone).cell(lon, lat)
    place = Placement(zone, row - side // 2, col - side // 2, side, side)
    with bar("Making scenes") as tick:
        written = publish(Landscape(seed, side, side), place, folder, mode, Window.parse(window), on_progress=tick)
    console.print(f"{written} scenes written; the catalogue is {folder / 'catalog.json'}")


@scenes_app.command()
def serve(
    folder: Folder,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8010,
) -> None:
    """Serve a folder of scenes on this machine: its files by ranges, and a STAC API that searches it."""
    app = scenery.create_scenery(folder)
    with scenery.listening(port) as listener:
        address = scenery.address_of(listener)
        typer.echo(f"{address}/")
        console.print(f"static catalogue {address}/catalog.json, STAC API {address}/   (Ctrl-C ends it)")
        console.print(f"smalti may read it where SMALTI_SCENES__HOSTS has {address}")
        scenery.run(app, listener)
