// Fills vendor/ with what the page needs from npm: the map library as it is, and the land of the world as GeoJSON.

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { feature } from "topojson-client";

const here = new URL("./", import.meta.url);
const vendor = new URL("vendor/", here);
const modules = new URL("node_modules/", here);
const MAPLIBRE = ["maplibre-gl.mjs", "maplibre-gl-worker.mjs", "maplibre-gl.css"];

mkdirSync(vendor, { recursive: true });
for (const name of MAPLIBRE) copyFileSync(new URL(`maplibre-gl/dist/${name}`, modules), new URL(name, vendor));
copyFileSync(new URL("maplibre-gl/LICENSE.txt", modules), new URL("LICENSE.txt", vendor));

// Natural Earth 1:50m, which is drawn to a few hundred metres: three decimals of a degree lose nothing.
const atlas = JSON.parse(readFileSync(new URL("world-atlas/land-50m.json", modules)));
const land = feature(atlas, atlas.objects.land);
const rounded = JSON.stringify(land, (_, value) => (typeof value === "number" ? Math.round(value * 1000) / 1000 : value));
writeFileSync(new URL("land.geojson", vendor), rounded);
const notice = `land.geojson is made from Natural Earth (public domain, naturalearthdata.com) as packed by world-atlas:\n\n`;
writeFileSync(new URL("LAND-LICENSE.txt", vendor), notice + readFileSync(new URL("world-atlas/LICENSE", modules)));
