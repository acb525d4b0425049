// Fills vendor/ with what the page needs from npm: the map library as it is, and the land of the world as GeoJSON.

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { feature } from "topojson-client";

const here = new URL("./", import.meta.url);
const vendor = new URL("vendor/", here);
const modules = new URL("node_modules/", here);
const MAPLIBRE = ["maplibre-gl.mjs", "maplibre-gl-worker.mjs", "maplibre-gl.css"];

// The atlas is made for globes: its rings jump at the antimeridian. On a flat map they go on past it, and Antarctica,
// whose ring goes once around, is closed along the pole. All have their middle on the one world from -180 to 180, so
// that the Caspian Sea stays a hole in its continent.
function unwrapped(ring) {
  const out = [];
  let shift = 0;
  ring.forEach(([lon, lat], i) => {
    const step = i ? lon - ring[i - 1][0] : 0;
    if (Math.abs(step) > 180) shift -= 360 * Math.sign(step);
    out.push([lon + shift, lat]);
  });
  if (Math.abs(out[0][0] - out.at(-1)[0]) > 180) out.push([out.at(-1)[0], -90], [out[0][0], -90], out[0]);
  const longitudes = out.map(([lon]) => lon);
  const worlds = Math.round((Math.min(...longitudes) + Math.max(...longitudes)) / 720);
  return out.map(([lon, lat]) => [lon - 360 * worlds, lat]);
}

mkdirSync(vendor, { recursive: true });
for (const name of MAPLIBRE) copyFileSync(new URL(`maplibre-gl/dist/${name}`, modules), new URL(name, vendor));
copyFileSync(new URL("maplibre-gl/LICENSE.txt", modules), new URL("LICENSE.txt", vendor));

// Natural Earth 1:50m, which is drawn to a few hundred metres: three decimals of a degree lose nothing.
const atlas = JSON.parse(readFileSync(new URL("world-atlas/land-50m.json", modules)));
const land = feature(atlas, atlas.objects.land);
for (const { geometry } of land.features ?? [land]) geometry.coordinates = geometry.coordinates.map((part) => part.map(unwrapped));
const rounded = JSON.stringify(land, (_, value) => (typeof value === "number" ? Math.round(value * 1000) / 1000 : value));
writeFileSync(new URL("land.geojson", vendor), rounded);
const notice = `land.geojson is made from Natural Earth (public domain, naturalearthdata.com) as packed by world-atlas:\n\n`;
writeFileSync(new URL("LAND-LICENSE.txt", vendor), notice + readFileSync(new URL("world-atlas/LICENSE", modules)));
