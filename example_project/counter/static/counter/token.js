import { connect, url } from "./panel.js";

const LOG_IN_ENDED = 4401;

const form = document.getElementById("revoking");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask("DELETE"); // the server then ends the connection
});

const answer = await ask("POST");
if (answer.ok) {
  const { token } = await answer.json(); // kept nowhere but in this page
  const end = (code) => (document.getElementById("ended").hidden = code !== LOG_IN_ENDED);
  // A page can set no header of a WebSocket but this one: the names of the subprotocols it offers.
  if (form.dataset.by === "url") connect(`${url}?token=${token}`, { onLost: end });
  else connect(url, { protocols: [`Token.${token}`], onLost: end });
} else {
  location.reload(); // the log-out came in between: the page then says how to log in
}

function ask(method) {
  const headers = { "X-CSRFToken": form.elements.csrfmiddlewaretoken.value };
  return fetch(form.dataset.keyUrl, { method, headers });
}
