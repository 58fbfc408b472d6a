// Making elements. Text goes in as text, never as markup, and looks come from classes and custom properties alone.

/** An element. Properties: `class`, `text`, `on` (listeners), `style` (custom properties), and attributes under their names. */
function make(tag, properties = {}, ...children) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") Object.entries(value).forEach(([event, listener]) => element.addEventListener(event, listener));
    else if (name === "style") Object.entries(value).forEach(([key, text]) => element.style.setProperty(key, text));
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const find = (id) => document.getElementById(id);
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const plural = (count, word, words = `${word}s`) => `${count} ${count === 1 ? word : words}`;

/** A token as it is drawn: blanks and line feeds get a sign of their own. */
function written(page, token) {
  if (token < 0) return "";
  const text = page.texts[token];
  return text.replaceAll("\n", "↵").replace(/^ /, text === " " ? "␣" : "\u2009") || "∅";
}

/** Auto, light, dark; kept for the next page where the browser lets a file keep anything. */
function setUpTheme() {
  const button = find("theme");
  const names = ["auto", "light", "dark"];
  const show = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.textContent = `theme: ${name}`;
  };
  let name = "auto";
  try {
    name = names.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto";
  } catch { /* no storage for files: the system's theme it is */ }
  show(name);
  button.addEventListener("click", () => {
    name = names[(names.indexOf(name) + 1) % names.length];
    show(name);
    try { localStorage.setItem("theme", name); } catch { /* as above */ }
  });
}
