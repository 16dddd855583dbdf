//! The set of all operations that are linked into the program.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::{ArgType, OpDef};
use crate::error::{Error, Result};

/// What a crate submits to have its operations found; made by [`register_ops!`](crate::register_ops).
pub struct OpRegistration {
    /// The definitions.
    pub define: fn() -> Vec<OpDef>,
    /// The source file that submits them.
    pub file: &'static str,
}

inventory::collect!(OpRegistration);

/// Submits operation definitions to the registry: `register_ops!(f)` or `register_ops!(f, g)`, where each function
/// is a `fn() -> OpDef` or, in `register_ops!(all f)`, a `fn() -> Vec<OpDef>`.
#[macro_export]
macro_rules! register_ops {
    (all $f:path) => {
        $crate::inventory::submit! { $crate::op::OpRegistration { define: $f, file: file!() } }
    };
    ($($f:path),+ $(,)?) => {
        $crate::inventory::submit! {
            $crate::op::OpRegistration {
                define: || vec![$($f()),+],
                file: file!(),
            }
        }
    };
}

/// All operations by name.
pub struct Registry {
    ops: BTreeMap<&'static str, OpDef>,
    mistakes: Vec<String>,
}

/// The registry of this program: collected once, in sorted order, from every crate that is linked in.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(Registry::collect)
}

impl Registry {
    fn collect() -> Registry {
        let mut r = Registry {
            ops: BTreeMap::new(),
            mistakes: Vec::new(),
        };
        for reg in inventory::iter::<OpRegistration> {
            for mut def in (reg.define)() {
                resolve_type_lists(&mut def);
                for m in def.mistakes.drain(..) {
                    r.mistakes.push(format!("operation {} ({}): {m}", def.name, reg.file));
                }
                if r.ops.contains_key(def.name) {
                    r.mistakes.push(format!(
                        "operation {} is registered twice; once more in {}",
                        def.name, reg.file
                    ));
                    continue;
                }
                r.ops.insert(def.name, def);
            }
        }
        r.mistakes.sort();
        r
    }

    /// Fails if a definition was malformed or registered twice.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` listing every mistake.
    pub fn check(&self) -> Result<()> {
        if self.mistakes.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "bad operation registrations: {}",
            self.mistakes.join("; ")
        )))
    }

    /// The operation of that name.
    pub fn find(&self, name: &str) -> Option<&OpDef> {
        self.ops.get(name)
    }

    /// The operation of that name.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` naming it and the most similar one that exists; see also [`check`](Self::check).
    pub fn get(&self, name: &str) -> Result<&OpDef> {
        self.check()?;
        self.find(name).ok_or_else(|| {
            let near = self.ops.keys().find(|k| k.eq_ignore_ascii_case(name));
            let hint = near.map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            Error::unimplemented(format!("unknown operation {name:?}{hint}"))
        })
    }

    /// All operations, by name.
    pub fn iter(&self) -> impl Iterator<Item = &OpDef> {
        self.ops.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether no operation is linked in.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Turns `x: Tin` into a type list where `Tin` is a `list(type)`, and checks that every name exists.
fn resolve_type_lists(def: &mut OpDef) {
    let attrs = &def.attrs;
    for arg in def.inputs.iter_mut().chain(&mut def.outputs) {
        if let ArgType::Attr(name) = &arg.ty {
            match attrs.iter().find(|a| &a.name == name) {
                Some(a) if a.is_list => arg.ty = ArgType::TypeList(name.clone()),
                Some(_) => {}
                None => def
                    .mistakes
                    .push(format!("argument {:?} has the undeclared type {name:?}", arg.name)),
            }
        }
        if let Some(n) = &arg.number
            && !attrs.iter().any(|a| &a.name == n)
        {
            def.mistakes
                .push(format!("argument {:?} has the undeclared length {n:?}", arg.name));
        }
    }
}
