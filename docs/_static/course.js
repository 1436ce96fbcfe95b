// A figure that turns: plotly (4.8 MB) and the figure are loaded when its button is pressed, from beside this file.
// Both come as scripts, not by fetch, so that the pages also work when they are opened from the disk.
const here = new URL(".", document.currentScript.src)
const loaded = {}
const load = (path) => loaded[path] ??= new Promise((ready, failed) => {
  const script = document.createElement("script")
  Object.assign(script, { src: new URL(path, here), onload: ready, onerror: failed })
  document.head.append(script)
})

document.addEventListener("click", async ({ target }) => {
  const button = target.closest?.("button.turn")
  if (!button) return
  button.disabled = true
  button.textContent = "Loading …"
  const name = button.dataset.figure
  try {
    await Promise.all([load("plotly.min.js"), load(`figures/${name}.js`)])
  } catch {
    button.textContent = "The figure could not be loaded"
    return
  }
  const picture = button.closest(".output").querySelector("img")
  const box = document.createElement("div")
  box.className = "turning"
  box.setAttribute("role", "img")
  box.setAttribute("aria-label", picture.alt)
  const { data, layout, frames } = window.courseFigures[name]
  picture.replaceWith(box)
  const width = Math.min(layout.width ?? 520, box.clientWidth)
  const plot = await Plotly.newPlot(box, data, { ...layout, width }, { displayModeBar: false })
  if (frames) await Plotly.addFrames(plot, frames)
  button.remove()
})

// Names that a screen reader says: what is written on a button, and a name where nothing is written.
for (const button of document.querySelectorAll("summary, .search-button-field")) {
  if (button.textContent.trim()) button.removeAttribute("aria-label")
  else button.setAttribute("aria-label", "Open or close this part of the list")
}
