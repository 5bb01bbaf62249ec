// One video holds the panels below one another. Each canvas shows its part, and the playhead follows.
const start = () => {
  const panels = element.querySelector(".ov-panels");
  if (!panels || panels.dataset.running) return;
  panels.dataset.running = "yes";
  const video = panels.querySelector("video");
  const canvases = [...panels.querySelectorAll("canvas")];
  const head = element.querySelector(".ov-playhead");
  const axis = element.querySelector(".ov-axis svg");
  const now = element.querySelector(".ov-now");
  const button = element.querySelector(".ov-play");
  const pace = Number(panels.dataset.pace);
  const moments = JSON.parse(panels.dataset.moments);
  const captions = JSON.parse(panels.dataset.captions);
  let shown = -1;
  const draw = () => {
    if (!panels.isConnected) return;
    const t = Math.min(moments.length - 1, Math.floor(video.currentTime / pace + 1e-3));
    if (video.readyState >= 2 && t !== shown) {
      shown = t;
      for (const canvas of canvases) {
        const top = Number(canvas.dataset.panel) * canvas.height;
        canvas.getContext("2d").drawImage(
          video, 0, top, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
      }
      head.setAttribute("x1", moments[t]);
      head.setAttribute("x2", moments[t]);
      now.textContent = `frame ${t + 1} of ${moments.length}, ${captions[t]}`;
      panels.dataset.drawn = t + 1;
    }
    setTimeout(() => requestAnimationFrame(draw), 10);
  };
  video.addEventListener("seeked", () => { shown = -1; });
  button.onclick = () => {
    if (video.paused) video.play(); else video.pause();
    button.textContent = video.paused ? "play" : "pause";
  };
  const seek = (event) => {
    const box = axis.getBoundingClientRect();
    const x = (1000 * (event.clientX - box.left)) / box.width;
    let best = 0;
    moments.forEach((moment, t) => { if (Math.abs(moment - x) < Math.abs(moments[best] - x)) best = t; });
    video.currentTime = (best + 0.5) * pace;
  };
  axis.addEventListener("pointerdown", seek);
  axis.addEventListener("pointermove", (event) => { if (event.buttons) seek(event); });
  // Who asks for less motion gets a still picture and the button.
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
    button.textContent = "play";
    video.currentTime = pace / 2;
  } else {
    video.play().catch(() => { button.textContent = "play"; });
  }
  draw();
};
start();
watch("value", start);
