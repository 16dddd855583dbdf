//! What a SavedModel folder says about itself, read without running anything.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use prost::Message;

use crate::graphdef::attrs::{shape_from_message, tensor_from_message};
use crate::graphdef::decode::{DecodeLimits, decode_saved_model};
use crate::graphdef::proto::collection_def::Kind;
use crate::graphdef::proto::tensor_info::Encoding;
use crate::graphdef::proto::{AssetFileDef, GraphDef, MetaGraphDef, SignatureDef, TensorInfo};
use actorflow_core::{Code, DType, Error, PartialShape, Result, Tensor};

/// The file that holds the graphs.
pub(super) const MODEL: &str = "saved_model.pb";
/// The signature that names the operation to run after loading.
pub(super) const INIT: &str = "__saved_model_init_op";
const TRAIN: &str = "__saved_model_train_op";
/// What defaults of one model's inputs may take together.
const MAX_DEFAULTS: usize = 1 << 30;

/// A tensor of a signature.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// The tensor of the graph: `"node:output"`.
    pub tensor: String,
    /// Its dtype; `None` if the file does not say or the engine does not have it.
    pub dtype: Option<DType>,
    /// What is known of its shape.
    pub shape: PartialShape,
    /// The value of an input that is not given.
    pub default: Option<Tensor>,
}

/// One way to use a model: named inputs and outputs.
///
/// A sparse tensor `x` stands here as three: `x.values`, `x.indices` and `x.dense_shape`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Signature {
    /// The tensors to feed.
    pub inputs: BTreeMap<String, TensorSpec>,
    /// The tensors to fetch.
    pub outputs: BTreeMap<String, TensorSpec>,
    /// What it is for, such as `tensorflow/serving/predict`.
    pub method: String,
}

/// A graph of a SavedModel, with what the file says about it.
#[derive(Debug, Clone)]
pub struct MetaGraph {
    /// What the graph is for, such as `serve`.
    pub tags: BTreeSet<String>,
    /// By name.
    pub signatures: BTreeMap<String, Signature>,
    /// The version of TensorFlow that wrote it.
    pub written_by: String,
    pub(super) def: MetaGraphDef,
    /// The tensors that hold the names of files, and the files below `assets`.
    pub(super) assets: Vec<(String, String)>,
}

/// The contents of a folder's `saved_model.pb`.
#[derive(Debug, Clone)]
pub struct SavedModelFile {
    /// The folder.
    pub dir: PathBuf,
    /// The graphs; each has tags of its own.
    pub graphs: Vec<MetaGraph>,
}

impl MetaGraph {
    /// The graph as it is in the file.
    pub fn graph_def(&self) -> Option<&GraphDef> {
        self.def.graph_def.as_ref()
    }

    /// The files that the graph reads, below the folder `assets`.
    pub fn assets(&self) -> impl Iterator<Item = &str> {
        self.assets.iter().map(|(_, file)| file.as_str())
    }
}

impl SavedModelFile {
    /// Reads the `saved_model.pb` of a folder.
    ///
    /// # Errors
    /// All name the file: `NOT_FOUND` if it does not exist, `INVALID_ARGUMENT` if it is no SavedModel,
    /// `RESOURCE_EXHAUSTED` beyond [`DecodeLimits`]'s defaults.
    pub fn read(dir: impl AsRef<Path>) -> Result<SavedModelFile> {
        let dir = dir.as_ref();
        let path = dir.join(MODEL);
        let bytes = match std::fs::read(&path) {
            Ok(b) => b,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let text = dir.join("saved_model.pbtxt");
                let hint = match text.exists() {
                    true => "; the folder holds a model in text form, which is not supported: save it as binary",
                    false => "; a SavedModel is a folder with that file",
                };
                return Err(Error::not_found(format!("{} does not exist{hint}", path.display())));
            }
            Err(e) => return Err(Error::new(Code::Unavailable, format!("{}: {e}", path.display()))),
        };
        parse(dir, bytes).map_err(|e| e.context(path.display().to_string()))
    }

    /// The graph with exactly these tags; without tags, the only graph.
    ///
    /// # Errors
    /// `NOT_FOUND` that lists the tags of the graphs there are.
    pub fn graph(&self, tags: &[&str]) -> Result<&MetaGraph> {
        let wanted: BTreeSet<String> = tags.iter().map(|t| (*t).to_owned()).collect();
        let found = match (tags, self.graphs.as_slice()) {
            ([], [one]) => Some(one),
            _ => self.graphs.iter().find(|g| g.tags == wanted),
        };
        found.ok_or_else(|| {
            let has: Vec<String> = self.graphs.iter().map(|g| list(&g.tags)).collect();
            Error::not_found(format!(
                "{} has no graph with the tags {}; it has {}",
                self.dir.join(MODEL).display(),
                list(&wanted),
                if has.is_empty() {
                    "no graph".to_owned()
                } else {
                    has.join(" and ")
                }
            ))
        })
    }
}

/// `{a, b}`
pub(super) fn list<'t>(names: impl IntoIterator<Item = &'t String>) -> String {
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    format!("{{{}}}", names.join(", "))
}

/// What the bytes of the file of a folder say.
pub(super) fn parse(dir: &Path, bytes: Vec<u8>) -> Result<SavedModelFile> {
    let model = decode_saved_model(bytes.into(), &DecodeLimits::default())?;
    if model.saved_model_schema_version != 1 {
        return Err(Error::invalid(format!(
            "the SavedModel has schema version {}, version 1 is known",
            model.saved_model_schema_version
        )));
    }
    let mut budget = MAX_DEFAULTS;
    let graphs = model
        .meta_graphs
        .into_iter()
        .map(|def| {
            let none = Default::default();
            let info = def.meta_info_def.as_ref().unwrap_or(&none);
            let signatures = def
                .signature_def
                .iter()
                .filter(|(name, _)| !matches!(name.as_str(), INIT | TRAIN))
                .map(|(name, s)| {
                    let s = signature(s, &mut budget).map_err(|e| e.context(format!("signature {name:?}")))?;
                    Ok((name.clone(), s))
                })
                .collect::<Result<_>>()?;
            Ok(MetaGraph {
                tags: info.tags.iter().cloned().collect(),
                signatures,
                written_by: info.tensorflow_version.clone(),
                assets: assets(&def)?,
                def,
            })
        })
        .collect::<Result<_>>()?;
    Ok(SavedModelFile {
        dir: dir.to_owned(),
        graphs,
    })
}

fn signature(s: &SignatureDef, budget: &mut usize) -> Result<Signature> {
    let mut out = Signature {
        inputs: specs(&s.inputs)?,
        outputs: specs(&s.outputs)?,
        method: s.method_name.clone(),
    };
    for (name, value) in &s.defaults {
        if let Some(input) = out.inputs.get_mut(name) {
            let value = tensor_from_message(value, budget).map_err(|e| e.context(format!("default of {name:?}")))?;
            input.default = Some(value);
        }
    }
    Ok(out)
}

fn specs(infos: &BTreeMap<String, TensorInfo>) -> Result<BTreeMap<String, TensorSpec>> {
    let mut out = BTreeMap::new();
    for (name, info) in infos {
        let shape = match &info.tensor_shape {
            Some(s) => shape_from_message(s).map_err(|e| e.context(format!("shape of {name:?}")))?,
            None => PartialShape::UNKNOWN,
        };
        let spec = |tensor: &str, dtype: Option<DType>, shape: PartialShape| TensorSpec {
            tensor: tensor.to_owned(),
            dtype,
            shape,
            default: None,
        };
        let dtype = DType::from_tf(info.dtype).ok();
        match &info.encoding {
            Some(Encoding::Name(t)) => {
                out.insert(name.clone(), spec(t, dtype, shape));
            }
            Some(Encoding::CooSparse(s)) => {
                let wide = Some(DType::I64);
                let any = |rank: usize| PartialShape::from_i64(&vec![-1; rank]);
                out.insert(format!("{name}.values"), spec(&s.values_tensor_name, dtype, any(1)));
                out.insert(format!("{name}.indices"), spec(&s.indices_tensor_name, wide, any(2)));
                out.insert(
                    format!("{name}.dense_shape"),
                    spec(&s.dense_shape_tensor_name, wide, any(1)),
                );
            }
            None => return Err(Error::invalid(format!("{name:?} names no tensor"))),
        }
    }
    Ok(out)
}

/// The graph's asset tensors with their files.
fn assets(def: &MetaGraphDef) -> Result<Vec<(String, String)>> {
    let mut found: Vec<AssetFileDef> = def.asset_file_def.clone();
    // Where TensorFlow 1 keeps them.
    if found.is_empty()
        && let Some(Kind::AnyList(list)) = def
            .collection_def
            .get("saved_model_assets")
            .and_then(|c| c.kind.as_ref())
    {
        for any in &list.value {
            let asset = AssetFileDef::decode(any.value.clone())
                .map_err(|e| Error::invalid(format!("collection \"saved_model_assets\": {e}")))?;
            found.push(asset);
        }
    }
    let mut seen = BTreeSet::new();
    let named = found
        .into_iter()
        .map(|a| {
            let tensor = match a.tensor_info.and_then(|i| i.encoding) {
                Some(Encoding::Name(name)) => name,
                _ => return Err(Error::invalid(format!("the asset {:?} names no tensor", a.filename))),
            };
            let inside = Path::new(&a.filename)
                .components()
                .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
            match inside {
                true => Ok((tensor, a.filename)),
                false => Err(Error::invalid(format!(
                    "the asset {:?} is not below the folder \"assets\"",
                    a.filename
                ))),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    // TensorFlow writes an asset as often as it was declared.
    Ok(named
        .into_iter()
        .filter(|(tensor, _)| seen.insert(tensor.clone()))
        .collect())
}

/// `x: float32[?,4]`
impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            Some(t) => write!(f, "{t}")?,
            None => f.write_str("?")?,
        }
        write!(f, "{}", self.shape)
    }
}
