import { Connection } from "../pages/connection.js";

const KEPT = 200; // lines on the page

const panel = document.getElementById("echo");
const log = document.getElementById("log");
const form = document.getElementById("form");
const button = form.querySelector("button");

const connection = new Connection(panel.dataset.wsUrl, document.getElementById("connection"), {
  onOpen: () => (button.disabled = false),
  onMessage: show,
  onLost: () => (button.disabled = true),
  silence: 60_000,
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = form.elements.text;
  // The text stays in the field when there is no connection to take it.
  if (connection.send({ text: field.value, sent: performance.now() })) field.value = "";
  field.focus();
});

function show(message) {
  if (message.you !== undefined) {
    document.getElementById("you").textContent = message.you ?? "a visitor who is not logged in";
    return;
  }
  const { text, sent } = message.echo;
  const item = document.createElement("li");
  const words = document.createElement("span");
  words.textContent = text; // never innerHTML: the text is whatever was typed
  const time = document.createElement("small");
  time.textContent = `${(performance.now() - sent).toFixed(1)} ms`;
  item.append(words, time);
  log.append(item);
  while (log.children.length > KEPT) log.firstElementChild.remove();
  log.scrollTop = log.scrollHeight;
}
