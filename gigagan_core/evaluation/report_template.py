"""The report page, a Jinja template; autoescape is on, and every caption goes through `visible` first."""

from gigagan_core.evaluation.report_parts import CHARTS, CLOSING, GALLERIES, OPENING, SAMPLES, TERMS

_VERDICTS = """
{% macro verdict(status) -%}
<span class="verdict {{ status | replace(' ', '-') }}">
{%- if status == 'shown' %}✓{% elif status == 'not shown' %}✕{% else %}–{% endif %} {{ status }}</span>
{%- endmacro %}
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
"""

_MODELS = """
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
"""

_MEASURED = """
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
"""

TEMPLATE = "".join([OPENING, _VERDICTS, SAMPLES, _MODELS, GALLERIES, _MEASURED, CHARTS, TERMS, CLOSING])
