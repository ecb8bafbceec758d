//! The OpenAPI document of `/api/v2`, made of the types that answers are made of.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::events::Event;
use super::v2::{COUNT, Clients, Failed, Load, Origins, Status, Streams, Worker};

/// The document.
pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut types = settings.into_generator();
    let mut paths = Map::new();
    let list = json!([
        { "name": "start", "in": "query", "description": "From this one on", "schema": { "type": "integer", "minimum": 0 } },
        {
            "name": "count", "in": "query", "description": format!("At most so many, {} where it is left out", COUNT.0),
            "schema": { "type": "integer", "minimum": 0, "maximum": COUNT.1 },
        },
    ]);
    let failed = types.subschema_for::<Failed>();
    let mut add = |path: &str, about: &str, schema: Value, more: Value| {
        let of = |kind: &str, schema: &Value| json!({ kind: { "schema": schema } });
        let kind = if path == "/events" { "text/event-stream" } else { "application/json" };
        let refused =
            |about: &str| json!({ "description": about, "content": of("application/json", failed.as_value()) });
        paths.insert(
            format!("/api/v2{path}"),
            json!({ "get": {
            "summary": about, "parameters": more,
            "responses": {
                "200": { "description": about, "content": of(kind, &schema) },
                "401": refused("The password or token is needed"),
                "403": refused("Only this host itself may ask"),
                "503": refused("The supervisor gives no answer"),
            },
        } }),
        );
    };
    let none = json!([]);
    add("/status", "The host, its load and its workers", schema::<Status>(&mut types), none.clone());
    add("/workers", "The workers", schema::<Vec<Worker>>(&mut types), none.clone());
    add("/overload", "How near the host is to its limits", schema::<Load>(&mut types), none.clone());
    add("/streams", "What is published and played, over all workers", schema::<Streams>(&mut types), list.clone());
    add("/clients", "Who publishes and plays, on all workers", schema::<Clients>(&mut types), list);
    add("/origins", "Where the worker that answers gets its streams", schema::<Origins>(&mut types), none.clone());
    add("/config", "The configuration in force, without what is secret", json!({ "type": "object" }), none.clone());
    add("/events", "The host and its streams, told anew each second", schema::<Event>(&mut types), none);
    let id = json!([{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }]);
    let kicked = json!({ "delete": {
        "summary": "Disconnects a client, wherever it is", "parameters": id,
        "responses": { "200": { "description": "It is disconnected" }, "404": { "description": "There is none" } },
    } });
    paths.insert("/api/v2/clients/{id}".to_owned(), kicked);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "weir", "version": env!("CARGO_PKG_VERSION"),
            "description": "What runs on this host. Beside it, /api/v1 is SRS's.",
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "security": [{ "basic": [] }, { "bearer": [] }, {}],
        "paths": paths,
        "components": {
            "schemas": types.take_definitions(true),
            "securitySchemes": {
                "basic": { "type": "http", "scheme": "basic", "description": "edge.api.user and password" },
                "bearer": { "type": "http", "scheme": "bearer", "description": "edge.api.token" },
            },
        },
    })
}

fn schema<T: JsonSchema>(types: &mut SchemaGenerator) -> Value {
    types.subschema_for::<T>().to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` leads somewhere.
    fn assert_whole(document: &Value, value: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(target)) = fields.get("$ref") {
                    let pointer = target.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
                }
                fields.values().for_each(|value| assert_whole(document, value));
            }
            Value::Array(values) => values.iter().for_each(|value| assert_whole(document, value)),
            _ => {}
        }
    }

    #[test]
    fn the_document_is_whole_and_explains() {
        let document = document();
        assert_whole(&document, &document);
        let worker = &document["components"]["schemas"]["Worker"];
        assert_eq!(worker["properties"]["cpu_percent"]["description"], "Of one core, over the last second.");
        assert_eq!(document["paths"].as_object().unwrap().len(), 9);
        let overload = &document["paths"]["/api/v2/overload"]["get"]["responses"]["200"];
        assert!(overload["content"]["application/json"]["schema"].is_object());
    }
}
