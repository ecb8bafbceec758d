// The OpenAPI document of the server, for people.
const make = (tag, text) => Object.assign(document.createElement(tag), {textContent: text ?? ''});

function typeOf(schema, all) {
  if (schema.$ref) return schema.$ref.split('/').pop();
  if (schema.type === 'array') return `list of ${typeOf(schema.items, all)}`;
  if (Array.isArray(schema.type)) return schema.type.filter((type) => type !== 'null').join(' or ');
  if (schema.anyOf) return schema.anyOf.filter((one) => one.type !== 'null').map((one) => typeOf(one, all)).join(' or ');
  return schema.type ?? 'anything';
}

/** The fields of a type, and of those that it is made of, each once. */
function fieldsOf(schema, all, seen) {
  const name = schema.$ref?.split('/').pop();
  if (schema.type === 'array') return fieldsOf(schema.items, all, seen);
  const type = name ? all[name] : schema;
  if (!type?.properties || seen.has(type)) return [];
  seen.add(type);
  const list = make('dl');
  const further = [];
  for (const [field, of] of Object.entries(type.properties)) {
    list.append(make('dt', `${field}: ${typeOf(of, all)}`), make('dd', of.description));
    for (const inner of [of, ...(of.anyOf ?? [])]) further.push(...fieldsOf(inner, all, seen));
  }
  return [make('h3', [name, type.description].filter(Boolean).join(': ')), list, ...further];
}

const answer = await fetch('/api/v2/openapi.json').catch(() => null);
if (answer?.ok) {
  const {info, paths, components} = await answer.json();
  document.getElementById('about').textContent = `${info.description} Version ${info.version}.`;
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, {summary, responses}] of Object.entries(methods)) {
      const box = make('details');
      const head = make('summary');
      head.append(make('code', `${method.toUpperCase()} ${path}`), make('span', ` ${summary}`));
      const content = Object.values(responses['200'].content ?? {})[0];
      box.append(head, ...(content ? fieldsOf(content.schema, components.schemas, new Set()) : []));
      document.getElementById('paths').append(box);
    }
  }
} else {
  const refused = await answer?.json().catch(() => null);
  document.getElementById('about').textContent = refused?.error ? `This page may not ask: ${refused.error}.` : 'The server is not reached.';
}
