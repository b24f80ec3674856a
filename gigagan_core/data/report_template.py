"""The page of a shard set, a Jinja template; autoescape is on, and every caption goes through `visible` first."""

STYLE = """
.deciles { display: grid; gap: 0.55rem; }
.decile {
  display: grid; grid-template-columns: 7.5rem 1fr; gap: 0.8rem; align-items: start;
  border-top: 1px solid var(--rule); padding-top: 0.55rem;
}
.decile > div:first-child { font-size: 0.88rem; font-variant-numeric: tabular-nums; }
.thumbs { display: grid; grid-template-columns: repeat(8, 1fr); gap: 0.5rem; }
.thumbs figcaption {
  font-size: 0.74rem; line-height: 1.25; margin: 0.15rem 0 0; color: var(--muted); max-height: 5em;
  overflow: hidden;
}
.thumbs .left img { opacity: 0.35; } .thumbs .left strong { display: block; color: var(--bad); font-weight: 500; }
.bar { grid-template: "label track value" / minmax(9rem, 17rem) 1fr 8.5rem; }
.bar .value span { display: inline-block; min-width: 4.2rem; color: var(--muted); font-weight: 400; }
.charts h3 { margin: 0 0 0.5rem; overflow-wrap: anywhere; } .charts .hint { margin: 0.5rem 0 0; }
.unreadable {
  aspect-ratio: 1; display: grid; place-items: center; font-size: 0.74rem; color: var(--muted);
  border: 1px dashed var(--rule); border-radius: 4px;
}
@media (max-width: 40rem) {
  .decile { grid-template-columns: 1fr; gap: 0.2rem; } .thumbs { grid-template-columns: repeat(4, 1fr); }
  .bar { grid-template: "label value" "track track" / 1fr 8.5rem; }
}
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title | visible }}</title>
<style>{{ style }}</style>
</head>
<body>

{% macro legend() -%}
<div class="legend"><span><i class="key-all"></i>all rows</span><span><i class="key-kept"></i>selected</span></div>
{%- endmacro %}
{% macro chart(item) -%}
<figure class="card"><h3>{{ item.title | visible }}</h3>
{{ item.svg }}
<p class="hint">{{ item.note | visible }}</p></figure>
{%- endmacro %}

<header>
<p class="eyebrow">GigaGAN data</p>
<h1>{{ title | visible }}</h1>
<p class="lead">{{ '{:,}'.format(selected) }} of {{ '{:,}'.format(rows) }} rows are selected, in {{ shards }}
{{ 'shard' if shards == 1 else 'shards' }}.</p>
</header>

<main>
<section>
<h2>Where the rows went</h2>
<p>Every row of the tables: it is selected, or it left for the one reason named.</p>
<div class="bars">
{% for fate in fates %}
{% set strong = ' strong' if fate.selected else '' %}
<div class="bar"><div class="label{{ strong }}">{{ fate.reason | visible }}</div>
<div class="track"><div class="fill{{ ' ours' if fate.selected else '' }}" style="width: {{ fate.width }}%"></div></div>
<div class="value{{ strong }}">{{ '{:,}'.format(fate.count) }} <span>{{ fate.share }}</span></div></div>
{% endfor %}
</div>
</section>

<section>
<h2>Scores</h2>
{% if scores %}
{{ legend() }}
<div class="charts">
{% for item in scores %}{{ chart(item) }}
{% endfor %}
</div>
{% else %}
<p class="hint">No row of this set has a score; curate adds them.</p>
{% endif %}
</section>

<section>
<h2>Pictures and captions</h2>
{% if distributions %}
<p>Sizes are those of the pictures as they were fetched, before they were resized to what the shards keep.</p>
{{ legend() }}
<div class="charts">
{% for item in distributions %}{{ chart(item) }}
{% endfor %}
</div>
{% else %}
<p class="hint">The tables of this set name neither sizes nor captions.</p>
{% endif %}
</section>

{% for page in pages %}
<section>
<h2>{{ page.title | visible }}</h2>
<p>{{ page.note | visible }}</p>
<div class="deciles">
{% for decile in page.deciles %}
<div class="decile">
<div><strong>{{ decile.name }}</strong><br><span class="hint">{{ decile.range }}</span></div>
<div class="thumbs">
{% for sample in decile.samples %}
<figure{% if sample.reason %} class="left"{% endif %}>
{% if sample.uri %}
<img src="{{ sample.uri }}" alt="{{ sample.caption | visible }}" title="{{ sample.caption | visible }}">
{% else %}
<div class="unreadable">unreadable</div>
{% endif %}
<figcaption>{% if sample.reason %}<strong>{{ sample.reason | visible }}</strong>{% endif %}
{{ sample.caption | visible(60) }}</figcaption>
</figure>
{% else %}
<p class="hint">No row here.</p>
{% endfor %}
</div>
</div>
{% endfor %}
</div>
</section>
{% endfor %}

<section>
<h2>Where it comes from</h2>
<div class="scroll"><table><tbody>
{% for name, value in facts.items() %}
<tr><td>{{ name | visible }}</td><td class="mono">{{ value | visible }}</td></tr>
{% endfor %}
</tbody></table></div>
</section>
</main>
</body>
</html>
"""
