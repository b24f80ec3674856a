"""The report page, a Jinja template; autoescape is on, and every caption goes through `visible` first."""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>

{% macro picture(image, shown) -%}
<img src="{{ image.uri }}" width="{{ image.side }}" height="{{ image.side }}" alt="{{ shown }}"
 {%- if image.pixels %} class="pixels"{% endif %}>
{%- endmacro %}
{% macro captioned(sample) -%}
<figure>
<figcaption>{{ sample.caption | visible }}</figcaption>
<div class="row" style="grid-template-columns: repeat({{ sample.images | length }}, 1fr)">
{% for name, image in sample.images %}<div>{{ picture(image, name) }}<span>{{ name }}</span></div>
{% endfor %}
</div>
{% if sample.note %}<p class="note">{{ sample.note }}</p>{% endif %}
</figure>
{%- endmacro %}
{% macro verdict(status) -%}
<span class="verdict {{ status | replace(' ', '-') }}">
{%- if status == 'shown' %}✓{% elif status == 'not shown' %}✕{% else %}–{% endif %} {{ status }}</span>
{%- endmacro %}

<header>
<p class="eyebrow">GigaGAN evaluation</p>
<h1>{{ title }}</h1>
<p class="lead">{{ lead }}</p>
</header>

<main>
<section aria-label="Verdicts">
<p class="tally"><strong>{{ tally }}</strong></p>
<div class="cards">
{% for claim in claims %}
<article class="card claim">
<header><h3>{{ claim.title }}</h3>{{ verdict(claim.status) }}</header>
{% if claim.numbers %}
<p class="big">{{ claim.numbers[0][1] | figure(claim.unit) }} <small>{{ claim.numbers[0][0] }}</small></p>
<dl>
{% for label, value in claim.numbers[1:] %}<dt>{{ label }}</dt><dd>{{ value | figure(claim.unit) }}</dd>
{% endfor %}
{% if claim.interval %}
<dt>{{ claim.interval[0] }}</dt>
<dd>{{ claim.interval[1] | figure(claim.unit) }} to {{ claim.interval[2] | figure(claim.unit) }}</dd>
{% endif %}
</dl>
{% endif %}
<p class="statement">{{ claim.statement }}</p>
{% if claim.status == 'not measured' %}
<p class="statement"><strong>{{ claim.sentence }}</strong></p>
{% endif %}
</article>
{% endfor %}
</div>
{% if cautions %}
<div class="caution" role="note">
{% for caution in cautions %}<p>{{ caution }}</p>{% endfor %}
</div>
{% endif %}
</section>

<section>
<h2>Samples</h2>
<p>{{ samples_note }}</p>
<div class="samples">
{% for sample in samples %}
{{ captioned(sample) }}
{% endfor %}
</div>
</section>

<section>
<h2>Base model</h2>
<p>Frechet distance of <code>{{ extractor }}</code> features at {{ image_size }} pixels to {{ count }}
held-out real images; lower is better. Every set has {{ count }} images. The distance of real training
images is what sampling alone leaves.</p>
<div class="bars">
{% for bar in bars %}
{% set strong = ' strong' if bar.ours else '' %}
<div class="bar"><div class="label{{ strong }}">{{ bar.label }}</div>
<div class="track">
<div class="fill{{ ' ours' if bar.ours else '' }}" style="width: {{ bar.share }}%"></div></div>
<div class="value{{ strong }}">{{ bar.value | figure }}</div></div>
{% endfor %}
</div>
<div class="scroll"><table>
<thead><tr><th>set of images</th>
{% for column in base_columns %}<th class="number">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in base_rows %}
<tr{% if row.ours %} class="strong"{% endif %}><td>{{ row.label }}</td>
{% for value in row['values'] %}<td class="number">{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="hint">{{ base_hint }}</p>
</section>

<section>
<h2>Upsampler</h2>
{% if upsampler_rows %}
<p>{{ upsampler_note }}</p>
<div class="scroll"><table>
<thead><tr><th>enlarged by</th>
{% for column in upsampler_columns %}<th class="number">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in upsampler_rows %}
<tr{% if row.ours %} class="strong"{% endif %}><td>{{ row.label }}</td>
{% for value in row['values'] %}<td class="number">{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="hint">{{ upsampler_hint }}</p>
<div class="strips">
{% for strip in strips %}
<figure>
<figcaption>{{ strip.caption | visible }}</figcaption>
<div class="row many" style="grid-template-columns: repeat({{ strip.images | length }}, 1fr)">
{% for name, image in strip.images %}<div>{{ picture(image, name) }}<span>{{ name }}</span></div>
{% endfor %}
</div>
</figure>
{% endfor %}
</div>
{% else %}
<p class="hint">No upsampler was given to this evaluation.</p>
{% endif %}
</section>

{% for section in gallery_sections %}
<section>
<h2>{{ section.title }}</h2>
{% if section.note %}<p>{{ section.note }}</p>{% endif %}
{% for gallery in section.members %}
<h3>{{ gallery.title }}</h3>
<p class="hint">{{ gallery.note }}</p>
<div class="samples gallery">
{% for sample in gallery.samples %}
{{ captioned(sample) }}
{% endfor %}
</div>
{% endfor %}
</section>
{% endfor %}

{% if published_rows %}
<section>
<h2>Beside the paper's tables</h2>
<div class="scroll"><table>
<thead><tr>{% for column in published_columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in published_rows %}
<tr>{% for cell in row %}<td>{{ cell | visible }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
</section>
{% endif %}

{% if tradeoff %}
<section>
<h2>Trade-off</h2>
{{ tradeoff }}
</section>
{% endif %}

{% if latency_rows %}
<section>
<h2>Latency</h2>
<p>{{ latency_note }}</p>
<div class="scroll"><table>
<thead><tr><th>part</th>
{% for column in latency_columns %}<th class="number">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in latency_rows %}
<tr><td>{{ row.label }}</td>
{% for value in row['values'] %}<td class="number">{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
</section>
{% endif %}

{% if charts %}
<section>
<h2>Training</h2>
<p>Over images seen, as the training stages recorded them.</p>
{% for group, members in charts.items() %}
<h3>{{ group }}</h3>
<div class="charts">
{% for chart in members %}
<figure class="card">
<div class="legend">
{% for name in chart.names %}<span><i class="key-{{ loop.index0 % 4 }}"></i>{{ name }}</span>{% endfor %}
</div>
{{ chart.svg }}
</figure>
{% endfor %}
</div>
{% endfor %}
</section>
{% endif %}

<section>
<h2>How to read these figures</h2>
<dl class="terms">
{% for term, meaning in terms %}<dt>{{ term }}</dt><dd>{{ meaning }}</dd>
{% endfor %}
</dl>
</section>

<section>
<h2>Where it comes from</h2>
<div class="scroll"><table>
<thead><tr><th>role</th><th>stage</th><th>artifact</th><th>made</th>
<th>git commit</th><th>MLflow run</th></tr></thead>
<tbody>
{% for line in lineage %}
<tr><td>{{ line.role }}</td><td>{{ line.stage }}</td><td class="mono">{{ line.fingerprint[:12] }}</td>
<td>{{ line.made }}</td>
<td class="mono">{{ line.git_commit }}</td><td class="mono">{{ line.mlflow_run }}</td></tr>
{% endfor %}
</tbody></table></div>
<details><summary>Settings of every artifact</summary>
{% for line in lineage if line.settings %}
<h3>{{ line.role }} <span class="mono hint">{{ line.fingerprint }}</span></h3>
<div class="scroll"><table><tbody>
{% for key, value in line.settings.items() %}
<tr><td>{{ key }}</td><td class="mono">{{ value | visible }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
</details>
<details><summary>Every figure by its name in the records</summary>
<div class="scroll"><table><tbody>
{% for name, value in metrics.items() %}
<tr><td class="mono">{{ name }}</td><td class="number">{{ '%.6g' | format(value) }}</td></tr>
{% endfor %}
</tbody></table></div>
</details>
{% if attribution %}
<h3>Data and licence</h3>
{% for line in attribution %}<p>{{ line | visible }}</p>{% endfor %}
{% endif %}
</section>
</main>

<footer>
<p>{{ machine }}</p>
<p>{{ versions }}</p>
</footer>
</body>
</html>
"""
