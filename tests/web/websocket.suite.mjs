// The WebSockets, from a page of the shared runner.

import { websocket } from "./websocket.mjs";

export async function run(world) {
  const page = await world.page("browser");
  await websocket({ page, baseUrl: world.url, check: (name, work) => world.check(name, work) });
}
