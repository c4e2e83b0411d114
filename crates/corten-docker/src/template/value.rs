//! The values that a template sees: JSON documents with Go's distinctions that JSON does not keep.

use std::fmt;
use std::sync::Arc;

use corten_types::{Error, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A value of a template; cheap to clone.
#[derive(Debug, Clone)]
pub enum Value {
    /// What a missing key of a map gives; prints `<no value>`.
    Missing,
    /// Go's nil pointer or interface.
    Nil,
    /// Go's nil slice: prints `[]`, is `null` in JSON.
    NilList,
    /// Go's nil map: prints `map[]`, is `null` in JSON.
    NilMap,
    /// A boolean.
    Bool(bool),
    /// Any integer of Go's integer types.
    Int(i128),
    /// A float64.
    Float(f64),
    /// A string.
    String(Arc<str>),
    /// A slice.
    List(Arc<[Value]>),
    /// A map or a struct.
    Object(Arc<Object>),
    /// A method that takes arguments.
    Method(Method),
}

/// The function behind [`Value::Method`]; an error is the message alone.
pub type MethodFunction = dyn Fn(&[Value]) -> Result<Value, String> + Send + Sync;

/// A method that takes arguments, such as `.Label "name"`.
#[derive(Clone)]
pub struct Method(pub Arc<MethodFunction>);

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Method")
    }
}

/// What Go type an [`Object`] stands for: decides what a name that it lacks gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A map: a missing key is [`Value::Missing`].
    Map,
    /// A document that docker reads as a map with `missingkey=error`, as `inspect` does.
    Document,
    /// A struct of this Go type name.
    Struct(&'static str),
    /// A row of a list command, of this Go type name: its JSON is sorted and safe for HTML.
    Row(&'static str),
}

/// A map or a struct: fields in the order of the document.
#[derive(Debug, Clone)]
pub struct Object {
    /// Which of Go's types.
    pub kind: ObjectKind,
    /// Names and values.
    pub fields: Vec<(String, Value)>,
}

impl Object {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Fields in the order in which Go prints and ranges over maps.
    pub fn sorted(&self) -> Vec<&(String, Value)> {
        let mut fields: Vec<_> = self.fields.iter().collect();
        fields.sort_by(|left, right| left.0.cmp(&right.0));
        fields
    }

    /// What `index` gives for a key that is not there: the zero value of the map's element type.
    pub fn zero(&self) -> Value {
        if self.fields.iter().all(|(_, value)| matches!(value, Value::String(_))) {
            Value::from("")
        } else {
            Value::Missing
        }
    }
}

impl Value {
    /// Any serialisable thing as maps, slices and scalars, fields in their order.
    pub fn from_serialize(source: &impl Serialize) -> Result<Self> {
        let fail = |error: serde_json::Error| Error::invalid("cannot read a document for a template").caused_by(error);
        let text = serde_json::to_string(source).map_err(fail)?;
        serde_json::from_str(&text).map_err(fail)
    }

    /// A document as docker's `inspect` sees it: an unknown name is an error.
    pub fn document(fields: Vec<(String, Value)>) -> Self {
        Self::Object(Arc::new(Object { kind: ObjectKind::Document, fields }))
    }

    /// A row of a list command, of this Go type.
    pub fn row(type_name: &'static str, fields: Vec<(String, Value)>) -> Self {
        Self::Object(Arc::new(Object { kind: ObjectKind::Row(type_name), fields }))
    }

    /// A struct of Go type `type_name`.
    pub fn structure(type_name: &'static str, fields: Vec<(String, Value)>) -> Self {
        Self::Object(Arc::new(Object { kind: ObjectKind::Struct(type_name), fields }))
    }

    /// A map.
    pub fn map(fields: Vec<(String, Value)>) -> Self {
        Self::Object(Arc::new(Object { kind: ObjectKind::Map, fields }))
    }

    /// A slice.
    pub fn list(items: impl IntoIterator<Item = Value>) -> Self {
        Self::List(items.into_iter().collect())
    }

    /// A slice of strings.
    pub fn strings<T: AsRef<str>>(items: &[T]) -> Self {
        Self::list(items.iter().map(|item| Self::from(item.as_ref())))
    }

    /// A slice of strings, nil where there are none.
    pub fn strings_or_nil<T: AsRef<str>>(items: &[T]) -> Self {
        if items.is_empty() { Self::NilList } else { Self::strings(items) }
    }

    /// A map of strings.
    pub fn string_map(map: &std::collections::BTreeMap<String, String>) -> Self {
        Self::map(map.iter().map(|(name, value)| (name.clone(), Self::from(value.as_str()))).collect())
    }

    /// JSON over several lines, each level indented by `indent`.
    pub fn to_json_pretty(&self, indent: &str) -> String {
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        match self.serialize(&mut serializer) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => "null".to_owned(),
        }
    }

    /// A method.
    pub fn method(function: impl Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static) -> Self {
        Self::Method(Method(Arc::new(function)))
    }

    /// What `if` asks: not the zero value of its type.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Missing | Self::Nil | Self::NilList | Self::NilMap => false,
            Self::Bool(flag) => *flag,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::String(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Object(object) => object.kind != ObjectKind::Map || !object.fields.is_empty(),
            Self::Method(_) => true,
        }
    }

    /// The Go type's name, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Missing | Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::String(_) => "string",
            Self::List(_) | Self::NilList => "[]interface {}",
            Self::Object(object) => match object.kind {
                ObjectKind::Struct(name) | ObjectKind::Row(name) => name,
                _ => "map[string]interface {}",
            },
            Self::NilMap => "map[string]interface {}",
            Self::Method(_) => "func",
        }
    }

    /// Compact JSON, as docker's `json` function writes it.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_else(|_| "null".to_owned());
        match self {
            // These three stand only inside strings.
            Self::Object(object) if matches!(object.kind, ObjectKind::Row(_)) => {
                json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
            }
            _ => json,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Int(i128::try_from(number).unwrap_or(i128::MAX))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Missing | Self::Nil | Self::NilList | Self::NilMap | Self::Method(_) => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Int(number) => match i64::try_from(*number) {
                Ok(number) => serializer.serialize_i64(number),
                Err(_) => serializer.serialize_u64(u64::try_from(*number).unwrap_or(u64::MAX)),
            },
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::String(text) => serializer.serialize_str(text),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items.iter() {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Object(object) => {
                let mut map = serializer.serialize_map(None)?;
                for (name, value) in json_fields(object) {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// Maps and rows are marshalled sorted; documents and structs keep their order; methods are left out.
fn json_fields(object: &Object) -> Vec<(&String, &Value)> {
    let mut fields: Vec<_> = object.fields.iter().map(|(name, value)| (name, value)).collect();
    if matches!(object.kind, ObjectKind::Map | ObjectKind::Row(_)) {
        fields.sort_by(|left, right| left.0.cmp(right.0));
    }
    fields.retain(|(_, value)| !matches!(value, Value::Method(_)));
    fields
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Int(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Value::map(fields))
    }
}
