import { connect, url } from "./panel.js";

connect(url);
