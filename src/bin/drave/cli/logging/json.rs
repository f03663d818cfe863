//! A log record as one line of JSON.

use log::Record;
use log::kv::{Error, Key, Value, VisitSource};
use serde_json::{Map, json};

/// Formats a record as one line of JSON with a newline: `time`, `level`, `target`, `node`, `message`, and the record's
/// other keys.
pub fn format_line(record: &Record, time: &str, node: u64) -> String {
    let mut object = Map::new();
    object.insert("time".to_owned(), json!(time));
    object.insert("level".to_owned(), json!(record.level().as_str().to_ascii_lowercase()));
    object.insert("target".to_owned(), json!(record.target()));
    object.insert("node".to_owned(), json!(node));
    object.insert("message".to_owned(), json!(record.args().to_string()));
    let _always_ok = record.key_values().visit(&mut KeyValueCollector(&mut object));
    format!("{}\n", serde_json::Value::Object(object))
}

struct KeyValueCollector<'a>(&'a mut Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for KeyValueCollector<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = match (value.to_u64(), value.to_bool()) {
            (Some(number), _) => json!(number),
            (None, Some(flag)) => json!(flag),
            (None, None) => json!(value.to_string()),
        };
        self.0.insert(key.as_str().to_owned(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_one_object_on_one_line() {
        let key_values = [("address", Value::from("127.0.0.1:7401")), ("term", Value::from(3_u64))];
        let args = format_args!("two\nlines \"quoted\"");
        let record =
            Record::builder().args(args).level(log::Level::Warn).target("drave::net").key_values(&key_values).build();
        let line = format_line(&record, "2026-01-01T00:00:00.000Z", 7);
        assert_eq!(line.matches('\n').count(), 1);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            object,
            json!({
                "time": "2026-01-01T00:00:00.000Z", "level": "warn", "target": "drave::net", "node": 7,
                "message": "two\nlines \"quoted\"", "address": "127.0.0.1:7401", "term": 3
            })
        );
    }
}
