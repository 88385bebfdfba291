import { Connection } from "./pages/connection.js";
import { site } from "./site.js";

const LOG_IN_ENDED = 4401;
const KEPT = 200; // entries on the page

const panel = document.getElementById("panel");
const log = document.getElementById("log");
const ended = document.getElementById("ended");

document.getElementById("site").href = `${site}/notifications/`;
document.getElementById("log-in").href = `${site}/login/?next=/notifications/`;

const connection = new Connection(
  `${site.replace("http", "ws")}/ws/notifications/`,
  document.getElementById("connection"),
  { onOpen: logIn, onMessage: receive, onLost: lose, silence: 60_000 },
);

document.getElementById("again").addEventListener("click", () => {
  ended.hidden = true;
  connection.open();
});

/** The site tells by its cookie who asks; its answer is our first message, whatever it is. */
async function logIn() {
  const { socket } = connection;
  try {
    const answer = await fetch(`${site}/notifications/token/`, { credentials: "include" });
    const message = await answer.json(); // the token is kept nowhere but here
    if (socket === connection.socket) connection.send(message);
  } catch {
    if (socket === connection.socket) connection.drop();
  }
}

function receive(message) {
  if (message.you !== undefined) {
    document.getElementById("you").textContent = message.you;
  } else if (message.may_view !== undefined) {
    document.getElementById("may-view").textContent = message.may_view.join(", ") || "nothing";
    // All anew: what may not be viewed any more goes.
    log.replaceChildren();
    for (const entry of message.recent) add(entry);
    panel.classList.remove("stale");
  } else if (message.entry !== undefined) {
    add(message.entry);
  }
}

function add({ id, at, who, did, kind, what }) {
  if (log.querySelector(`[data-id="${id}"]`)) return; // it came as a recent one, too
  const item = document.createElement("li");
  item.dataset.id = id;
  const time = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  item.append(part("strong", who), part("span", `${did} ${kind}${what && ` “${what}”`}`), part("small", time));
  log.append(item);
  while (log.children.length > KEPT) log.firstElementChild.remove();
  log.scrollTop = log.scrollHeight;
}

function part(name, text) {
  const element = document.createElement(name);
  element.textContent = text; // never innerHTML: the text is whatever was typed
  element.dir = "auto";
  return element;
}

function lose(code) {
  panel.classList.add("stale");
  ended.hidden = code !== LOG_IN_ENDED;
  // Nothing stays on the screen for whoever sits there next.
  if (code === LOG_IN_ENDED) log.replaceChildren();
}
