// Talks to the server. Every refusal becomes an Error whose message is what the server said.

async function answer(response) {
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw new Error([problem.detail ?? `The server answered ${response.status}.`, problem.remedy].filter(Boolean).join(" "));
}

const post = (path, body) =>
  fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }).then(answer);

export const datasets = () => fetch("/datasets").then(answer);

export const search = (dataset, window, [lon, lat], k) =>
  fetch(`/datasets/${dataset}/${window}/search?lon=${lon}&lat=${lat}&k=${k}`).then(answer);

export const saveQuery = (dataset, window, point) => post("/queries", { dataset, window, points: [point] });

export const vector = (dataset, window, point) =>
  post(`/datasets/${dataset}/${window}/vectors`, { points: [point] });

export const legend = (dataset, window, view) => fetch(`/datasets/${dataset}/${window}/legend?${view}`).then(answer);

export const tiles = (dataset, window, view, revision) =>
  `${location.origin}/datasets/${dataset}/${window}/tiles/WebMercatorQuad/{z}/{x}/{y}.png` +
  `?tilesize=256&${view}&revision=${encodeURIComponent(revision)}`;
