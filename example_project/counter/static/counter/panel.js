import { Connection } from "../pages/connection.js";

const panel = document.getElementById("counter");
const buttons = panel.querySelectorAll("button");

export const url = panel.dataset.wsUrl;

/** Connect the panel. protocols: what is offered. onLost(code): called besides. */
export function connect(url, { protocols = [], onLost = () => {} } = {}) {
  let version; // of the value that is shown

  const connection = new Connection(url, document.getElementById("connection"), {
    protocols,
    onOpen: () => (version = -1), // what the server says after a restart counts in any case
    onMessage: show,
    onLost: (code) => {
      enable(false);
      onLost(code);
    },
    silence: 60_000,
  });

  for (const button of buttons) {
    button.addEventListener("click", () => connection.send({ do: button.dataset.do }));
  }

  function show(message) {
    if (message.you !== undefined) {
      document.getElementById("you").textContent = message.you ?? "all visitors who are not logged in";
      return;
    }
    // A change that was made before the one that is shown may be told after it.
    if (message.version === undefined || message.version <= version) return;
    version = message.version;
    document.getElementById("value").textContent = message.value;
    enable(true);
  }
}

function enable(on) {
  panel.classList.toggle("stale", !on);
  for (const button of buttons) button.disabled = !on;
}
