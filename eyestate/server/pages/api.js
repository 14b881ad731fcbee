"use strict";

/* The examples on the page name the service as it was reached. */
const own = new URL("./", document.baseURI).href.replace(/\/$/, "");

for (const command of document.querySelectorAll(".command")) {
  command.textContent = command.textContent.replace("http://127.0.0.1:3000", own);
}
