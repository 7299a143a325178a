//! A struct that is read from a JSON object. A derived `Deserialize` alone would accept an array of the values, too, and would
//! not tell which keys it has ignored.
//!
//! A key is copied only if it is unknown: a general way to find them, such as the crate `serde_ignored`, copies each key, which
//! took 3 % of the instructions of a call.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

/// A `T` that was read from an object.
pub(crate) struct Object<T> {
    pub(crate) value: T,
    /// The keys of the object that `T` does not have.
    pub(crate) unknown_keys: Vec<String>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        let mut unknown_keys = Vec::new();
        let value = T::deserialize(StructReader { map, unknown_keys: &mut unknown_keys })?;
        Ok(Object { value, unknown_keys })
    }
}

/// What the derived `Deserialize` of a struct reads from.
struct StructReader<'a, A> {
    map: A,
    unknown_keys: &'a mut Vec<String>,
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for StructReader<'_, A> {
    type Error = A::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_map(StructKeys { map: self.map, fields, unknown_keys: self.unknown_keys })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_map(self.map)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The members of an object, whose unknown keys are noted.
struct StructKeys<'a, A> {
    map: A,
    fields: &'static [&'static str],
    unknown_keys: &'a mut Vec<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for StructKeys<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let (fields, unknown_keys) = (self.fields, &mut *self.unknown_keys);
        self.map.next_key_seed(Key { inner: seed, fields, unknown_keys })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// A seed, a deserializer or a visitor of one key.
struct Key<'a, T> {
    inner: T,
    fields: &'static [&'static str],
    unknown_keys: &'a mut Vec<String>,
}

impl<'a, T> Key<'a, T> {
    fn replace<U>(self, inner: U) -> (T, Key<'a, U>) {
        (self.inner, Key { inner, fields: self.fields, unknown_keys: self.unknown_keys })
    }
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T::Value, D::Error> {
        let (seed, deserializer) = self.replace(deserializer);
        seed.deserialize(deserializer)
    }
}

impl<'de, T: Deserializer<'de>> Deserializer<'de> for Key<'_, T> {
    type Error = T::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, T::Error> {
        let (deserializer, visitor) = self.replace(visitor);
        deserializer.deserialize_identifier(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, T: Visitor<'de>> Visitor<'de> for Key<'_, T> {
    type Value = T::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<T::Value, E> {
        if !self.fields.contains(&key) {
            self.unknown_keys.push(key.to_owned());
        }
        self.inner.visit_str(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Pair {
        first: i64,
        second: Option<String>,
    }

    fn read(json: &str) -> serde_json::Result<(Pair, Vec<String>)> {
        serde_json::from_str(json).map(|Object { value, unknown_keys }| (value, unknown_keys))
    }

    #[test]
    fn unknown_keys_are_those_that_the_struct_does_not_have() {
        let (pair, unknown_keys) =
            read(r#"{"third": [{"fourth": 1}], "f\u0069rst": 1, "": null, "second": "s", "\"\n": {}}"#)
                .unwrap();
        assert_eq!((pair.first, pair.second.as_deref()), (1, Some("s")));
        assert_eq!(unknown_keys, ["third", "", "\"\n"]);
    }

    #[test]
    fn only_an_object_is_accepted_and_a_known_key_once() {
        for json in [r#"[1, "s"]"#, "1", "null", r#""first""#, "{}", r#"{"first": 1, "first": 1}"#] {
            assert!(read(json).is_err(), "{json}");
        }
        assert!(read(r#"{"first": 1, "other": 1, "other": 1}"#).is_ok());
    }
}
