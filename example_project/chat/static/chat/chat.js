import { Connection } from "../pages/connection.js";

const KEPT = 500; // messages on the page

const panel = document.getElementById("chat");
const rooms = document.getElementById("rooms");
const opening = document.getElementById("opening");
const form = document.getElementById("form");
const log = document.getElementById("log");
const notice = document.getElementById("notice");
const field = form.elements.text;

let you = null; // the name of whoever is logged in
let room = null; // what the page shows: its id and name
let wanted = new URLSearchParams(location.search).get("room") ?? ""; // what it asked for
let unanswered = []; // texts of which the server has not yet said what became of them

const connection = new Connection(panel.dataset.wsUrl, document.getElementById("connection"), {
  onOpen: () => connection.send({ enter: wanted }),
  onMessage: receive,
  onLost: lose,
  silence: 60_000,
});

rooms.addEventListener("change", () => enter(rooms.value));

opening.addEventListener("submit", (event) => {
  event.preventDefault();
  if (enter(opening.elements.name.value)) opening.reset();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!connection.send({ say: field.value })) return; // the text stays in its field
  unanswered.push(field.value);
  field.value = "";
  tell("");
});

addEventListener("popstate", () => {
  enter(new URLSearchParams(location.search).get("room") ?? "");
});

function enter(name) {
  wanted = name; // if there is no connection, it is entered with the next one
  tell("");
  return connection.send({ enter: name });
}

function receive(message) {
  if (message.rooms !== undefined) greet(message);
  else if (message.room !== undefined) show(message.room);
  else if (message.history !== undefined) fill(message);
  else if (message.message !== undefined) add(message.message);
  else if (message.private !== undefined) addPrivate(message.private);
  else if (message.added !== undefined) offer(message.added);
  else if (message.removed !== undefined) withdraw(message.removed);
  else if (message.deleted !== undefined) itemOf(message.deleted)?.remove();
  else if (message.said !== undefined) unanswered.shift();
  else if (message.refused !== undefined) giveBack(unanswered.splice(0, 1), message.refused);
  else if (message.error !== undefined) fail(message.error);
}

function greet(message) {
  you = message.you;
  rooms.replaceChildren();
  for (const name of message.rooms) offer(name);
  form.hidden = opening.hidden = you === null;
  document.getElementById("visitor").hidden = you !== null;
}

function show(entered) {
  if (entered.id !== room?.id) {
    // Private messages stay: they are of no room, and nowhere else.
    for (const item of log.querySelectorAll("li:not(.private)")) item.remove();
  }
  room = entered;
  wanted = room.name;
  offer(room.name);
  rooms.value = room.name;
  enable(true);
  const address = `?room=${encodeURIComponent(room.name)}`;
  const asked = new URLSearchParams(location.search).get("room");
  if (asked === null) history.replaceState(null, "", address);
  else if (asked !== room.name) history.pushState(null, "", address);
  for (const link of document.querySelectorAll("a[href*='?next=']")) {
    link.search = `?next=${encodeURIComponent(location.pathname + location.search)}`;
  }
}

function fill({ history, of, earlier }) {
  if (of !== room.id) return;
  // After a loss of the connection, more may have been said meanwhile than is sent.
  const before = log.querySelector("[data-id]");
  if (before && earlier && history.every((message) => !itemOf(message.id))) {
    insert(item("gap", "", "Earlier messages are not shown."), Date.parse(history[0].at));
  }
  for (const message of history) add(message);
  log.scrollTop = log.scrollHeight;
}

function add(message) {
  // What was on its way from the room that was left, and what comes both live and as history.
  if (message.room !== room?.id || itemOf(message.id)) return;
  const element = item(message.author === you ? "own" : "", message.author, message.text);
  element.dataset.id = message.id;
  insert(element, Date.parse(message.at));
}

function addPrivate({ author, to, text, at }) {
  const own = author === you;
  insert(item(own ? "private own" : "private", own ? `you → ${to}` : `${author} → you`, text), Date.parse(at));
}

function item(className, author, text) {
  const element = document.createElement("li");
  element.className = className;
  if (author) element.append(part("strong", author));
  element.append(part("span", text));
  return element;
}

function part(name, text) {
  const element = document.createElement(name);
  element.textContent = text; // never innerHTML: the text is whatever was typed
  element.dir = "auto";
  return element;
}

function insert(element, at) {
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  element.dataset.at = at;
  if (!element.classList.contains("gap")) {
    const time = new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    element.append(part("small", time));
  }
  let next = null; // what is newer stays below: history may come after live messages
  while ((next ? next.previousElementSibling : log.lastElementChild)?.dataset.at > at) {
    next = next ? next.previousElementSibling : log.lastElementChild;
  }
  log.insertBefore(element, next);
  while (log.children.length > KEPT) log.firstElementChild.remove();
  if (follows) log.scrollTop = log.scrollHeight;
}

function itemOf(id) {
  return log.querySelector(`[data-id="${id}"]`);
}

function offer(name) {
  if (optionOf(name)) return;
  const option = part("option", name);
  option.value = name;
  const next = [...rooms.options].find((other) => other.value.localeCompare(name) > 0);
  rooms.insertBefore(option, next ?? null);
}

function withdraw(name) {
  if (name !== room?.name) optionOf(name)?.remove();
}

function optionOf(name) {
  return [...rooms.options].find((option) => option.value === name);
}

function fail(reason) {
  tell(reason);
  wanted = room?.name ?? "";
  if (room) rooms.value = room.name;
}

function lose() {
  enable(false);
  const texts = unanswered;
  unanswered = [];
  if (texts.length) giveBack(texts, "The connection was lost: this message may not have been sent.");
}

function giveBack(texts, reason) {
  tell(reason);
  field.value = [...texts, field.value].filter(Boolean).join(" ");
}

function tell(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

function enable(on) {
  for (const button of panel.querySelectorAll("button")) button.disabled = !on;
}
