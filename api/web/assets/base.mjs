// The ground under the tiles: plain colour and a graticule, so that an offline map is not a void.

const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;

function graticule() {
  const lines = [];
  const along = (n, at) => Array.from({ length: n + 1 }, (_, i) => at(i / n));
  for (let lon = -180; lon <= 180; lon += 6) lines.push(along(40, (t) => [lon, -80 + 164 * t]));
  for (let lat = -80; lat <= 84; lat += 4) lines.push(along(60, (t) => [-180 + 360 * t, lat]));
  return { type: "Feature", properties: {}, geometry: { type: "MultiLineString", coordinates: lines } };
}

export const style = () => ({
  version: 8,
  sources: { graticule: { type: "geojson", data: graticule() } },
  layers: [
    { id: "ground", type: "background", paint: { "background-color": dark() ? "#0f1817" : "#e9efee" } },
    { id: "graticule", type: "line", source: "graticule",
      paint: { "line-color": dark() ? "#2b3b39" : "#cbd6d4", "line-width": 1 } },
  ],
});
