"""Look of the analyses' pages: light, and dark where the reader's system is."""

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b2330;--quiet:#5a6576;
--line:#e1e5eb;--track:#e9edf2;--main:#2b68d4;--wrong:#bd5514;--wrong-2:#8a5bd6;--gap:#d2334c;
--soft:#c3cbd6;--on:#fff}
@media (prefers-color-scheme:dark){:root{--page:#12161c;--card:#1a2029;--ink:#e7ebf1;
--quiet:#9ba7b8;--line:#2b3340;--track:#262e3a;--main:#6ea2ff;--wrong:#f0924f;--wrong-2:#b394f5;
--gap:#ff6b81;--soft:#485366;--on:#10141a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:26px;line-height:1.25;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 4px}
h3{font-size:13px;font-weight:600;color:var(--quiet);margin:14px 0 4px}
header p,section>p{color:var(--quiet);margin:0 0 14px;max-width:76ch}
code{background:var(--track);border-radius:4px;padding:1px 5px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin:22px 0}
.tiles div,section{background:var(--card);border:1px solid var(--line);border-radius:12px}
.tiles div{padding:14px 16px}
.tiles dt{color:var(--quiet);font-size:13px}
.tiles dd{margin:2px 0 0}
.tiles strong{display:block;font-size:26px;line-height:1.25;font-variant-numeric:tabular-nums}
.tiles span{color:var(--quiet);font-size:12px;overflow-wrap:anywhere}
section{padding:20px 22px;margin:16px 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{text-align:left;padding:6px 14px 6px 0;border-bottom:1px solid var(--line);
vertical-align:middle}
thead th{color:var(--quiet);font-size:12.5px;font-weight:600;vertical-align:bottom}
tbody th{font-weight:500}
tbody tr:last-child>*{border-bottom:0}
.number{text-align:right;white-space:nowrap}
thead .number{white-space:normal}
th:last-child,td:last-child{padding-right:0}
.with-bar{display:inline-flex;align-items:center;gap:10px;flex-direction:row-reverse}
.with-bar span{min-width:4.5ch}
svg.bar{width:110px;height:8px}
svg.shares{display:block;width:100%;height:34px;border-radius:6px}
svg.shares+.scroll{margin-top:14px}
svg.plot{width:340px;max-width:100%;flex:none}
svg text{fill:var(--quiet);font-size:12px}
svg.shares text{fill:var(--on);font-size:13px;font-weight:600}
svg.shares text.on-soft{fill:var(--ink)}
.track{fill:var(--track)}.main{fill:var(--main)}.wrong{fill:var(--wrong)}
.wrong-2{fill:var(--wrong-2)}.soft{fill:var(--soft)}
.gap{fill:var(--gap);fill-opacity:.35;stroke:var(--gap);stroke-width:1}
.grid{stroke:var(--line)}.ideal{stroke:var(--ink);stroke-dasharray:4 4;fill:none}
.beside{display:flex;flex-wrap:wrap;gap:28px;align-items:flex-start}
.beside .scroll{flex:1 1 320px}
.worst{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:22px}
figure{margin:0}
.panels{display:grid;grid-template-columns:repeat(3,1fr);gap:4px;border-radius:8px;overflow:hidden}
.panels img{width:100%;display:block;aspect-ratio:1;object-fit:contain;background:var(--track)}
figcaption{font-size:13px;color:var(--quiet);margin-top:6px;overflow-wrap:anywhere}
figcaption b{color:var(--ink)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 12px;padding:0;margin:4px 0 0}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:5px}
summary{cursor:pointer;padding:10px 0;color:var(--main);font-weight:600}
@media print{body{background:#fff}section,.tiles div{break-inside:avoid}}
"""
