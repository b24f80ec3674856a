"""What the pages of every evaluation share, as pieces of Jinja templates; captions go through `visible` first.

A page is OPENING, its own sections, some of the pieces below and CLOSING; `report_sections.filled` fills it.
"""

OPENING = """<!doctype html>
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

<header>
<p class="eyebrow">GigaGAN evaluation</p>
<h1>{{ title }}</h1>
<p class="lead">{{ lead }}</p>
</header>

<main>
"""

SAMPLES = """
<section>
<h2>Samples</h2>
<p>{{ samples_note }}</p>
<div class="samples {{ samples_class }}">
{% for sample in samples %}
{{ captioned(sample) }}
{% endfor %}
</div>
</section>
"""

GALLERIES = """
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
"""

CHARTS = """
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
"""

TERMS = """
<section>
<h2>How to read these figures</h2>
<dl class="terms">
{% for term, meaning in terms %}<dt>{{ term }}</dt><dd>{{ meaning | visible }}</dd>
{% endfor %}
</dl>
</section>
"""

CLOSING = """
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
