//! Changes to JSON as cases write them: a key, or a pointer (RFC 6901) that may end in `/-`.

use serde_json::{Map, Value};

use crate::Result;

/// Sets what each key says. A key that begins with `/` is a pointer into the value, whose missing
/// objects are made; `/-` at its end appends to a list.
///
/// # Errors
/// A pointer that leads through something that is no object or list.
pub fn set(target: &mut Value, changes: &Map<String, Value>) -> Result<()> {
    // What a key sets whole, pointers may then lead into.
    let (pointers, keys): (Vec<_>, Vec<_>) =
        changes.iter().partition(|(key, _)| key.starts_with('/'));
    keys.into_iter().chain(pointers).try_for_each(|(key, value)| {
        let lost = || format!("nothing to set at {key:?}");
        let (parent, last) = split(key);
        let mut place = &mut *target;
        for part in parent {
            place = child(place, &part).ok_or_else(lost)?;
        }
        match place {
            Value::Array(list) if last == "-" => list.push(value.clone()),
            _ => *child(place, &last).ok_or_else(lost)? = value.clone(),
        }
        Ok(())
    })
}

/// Removes what is there of these keys or pointers.
pub fn remove(target: &mut Value, keys: &[String]) {
    for key in keys {
        let (parent, last) = split(key);
        let place = parent.iter().try_fold(&mut *target, |place, part| match place {
            Value::Object(fields) => fields.get_mut(part),
            Value::Array(list) => list.get_mut(part.parse::<usize>().ok()?),
            _ => None,
        });
        match place {
            Some(Value::Object(fields)) => drop(fields.remove(&last)),
            Some(Value::Array(list)) => {
                if let Some(at) = last.parse().ok().filter(|at| *at < list.len()) {
                    list.remove(at);
                }
            }
            _ => {}
        }
    }
}

/// The parts before the last one, and that.
fn split(key: &str) -> (Vec<String>, String) {
    let Some(pointer) = key.strip_prefix('/') else { return (Vec::new(), key.to_owned()) };
    let part = |part: &str| part.replace("~1", "/").replace("~0", "~");
    let mut parts: Vec<_> = pointer.split('/').map(part).collect();
    let last = parts.pop().unwrap_or_default();
    (parts, last)
}

fn child<'a>(value: &'a mut Value, part: &str) -> Option<&'a mut Value> {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => Some(fields.entry(part).or_insert(Value::Null)),
        Value::Array(list) => list.get_mut(part.parse::<usize>().ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn edited(mut value: Value, changes: &Value) -> Result<Value> {
        set(&mut value, changes.as_object().unwrap())?;
        Ok(value)
    }

    #[test]
    fn keys_and_pointers_set_and_append() {
        let value = json!({"a": {"b": [1, {"c": 2}]}});
        let changes = json!({
            "cni.dev/x": 1, "/a/b/1/c": 3, "/a/b/-": 4, "/new/er": null, "/a/d~1e": 5,
        });
        let wanted = json!({
            "a": {"b": [1, {"c": 3}, 4], "d/e": 5}, "cni.dev/x": 1, "new": {"er": null},
        });
        assert_eq!(edited(value.clone(), &changes).unwrap(), wanted);
        assert!(edited(value, &json!({"/a/b/7/c": 1})).unwrap_err().contains("/a/b/7/c"));
    }

    #[test]
    fn what_is_not_there_is_removed_without_a_word() {
        let mut value = json!({"a": {"b": [1, 2]}, "c": 3});
        remove(&mut value, &["c", "/a/b/0", "/a/b/9", "/x/y", "z"].map(String::from));
        assert_eq!(value, json!({"a": {"b": [2]}}));
    }
}
