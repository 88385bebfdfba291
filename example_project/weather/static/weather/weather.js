import { Connection } from "../pages/connection.js";

const panel = document.getElementById("weather");
const city = document.getElementById("city");
const pause = document.getElementById("pause");
let received = 0;

const connection = new Connection(panel.dataset.wsUrl, document.getElementById("connection"), {
  onOpen: ask, // after a reconnect too: the server has forgotten which city it was
  onMessage: show,
  onLost: () => panel.classList.add("stale"),
  silence: 60_000,
});

function paused() {
  return pause.getAttribute("aria-pressed") === "true";
}

function ask() {
  connection.send(paused() ? { pause: true } : { city: city.value });
}

city.addEventListener("change", () => {
  pause.setAttribute("aria-pressed", "false");
  ask();
});

pause.addEventListener("click", () => {
  pause.setAttribute("aria-pressed", String(!paused()));
  ask();
});

document.getElementById("choice").addEventListener("submit", (event) => event.preventDefault());

function show(message) {
  if (message.error || message.city !== city.value) return;
  const { now, hours } = message;
  panel.classList.remove("stale");
  setText("temperature", now.temperature.toFixed(1));
  setText("sky-name", now.sky);
  setText("wind", Math.round(now.wind));
  setText("clouds", Math.round(now.clouds * 100));
  setText("at", new Date(now.at).toLocaleTimeString());
  document.getElementById("at").dateTime = now.at;
  document.getElementById("sky").dataset.sky = now.sky;
  document.getElementById("hours").replaceChildren(...hours.map(hourItem));
  received += 1;
  setText("count", received);
}

function hourItem(hour) {
  const item = document.createElement("li");
  const sky = part("span", "");
  sky.className = "sky";
  sky.dataset.sky = hour.sky;
  sky.setAttribute("role", "img");
  sky.setAttribute("aria-label", hour.sky);
  const clock = { hour: "2-digit", minute: "2-digit" };
  item.append(
    part("span", new Date(hour.at).toLocaleTimeString([], clock)),
    sky,
    part("strong", `${Math.round(hour.temperature)}°`),
  );
  return item;
}

function part(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

function setText(id, text) {
  document.getElementById(id).textContent = text;
}
