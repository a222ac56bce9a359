// Before anything is drawn: the theme chosen on an earlier visit.
try {
  const theme = localStorage.getItem("dsv4.theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // no storage: the system's theme
}
