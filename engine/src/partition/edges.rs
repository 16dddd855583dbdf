//! Cutting the edges between devices.

use std::collections::HashMap;

use actorflow_actors::exec::Source;
use actorflow_core::error::{Error, Result};
use actorflow_core::op::registry;
use actorflow_core::{Attrs, DType, PartialShape};

use super::frames::{Frames, OUTSIDE};
use super::loops::{Triggers, bare, token};
use super::{Crossing, DivideOptions, Site};
use crate::passes::alias::Writers;
use crate::passes::ir::{CONST, Ir, IrNode};

/// Constants of up to so many bytes are made where they are used.
const SMALL: usize = 4096;

struct Cutter<'a> {
    ir: &'a mut Ir,
    frames: &'a mut Frames,
    triggers: &'a Triggers,
    sites: &'a [Site],
    options: DivideOptions,
    /// Nodes of plans with control flow may be dead, and so may what crosses.
    may_be_dead: bool,
    writers: Writers,
    /// What stands for an output on another device.
    arrived: HashMap<(Source2, usize), usize>,
    crossings: Vec<Crossing>,
}

/// An output, as a key.
type Source2 = (usize, usize);

/// Cuts every edge between devices; what crosses, by edge number.
pub(super) fn cut(
    ir: &mut Ir,
    frames: &mut Frames,
    triggers: &Triggers,
    sites: &[Site],
    options: DivideOptions,
) -> Result<Vec<Crossing>> {
    let may_be_dead = ir.nodes.iter().flatten().any(|n| n.def.is_control_flow());
    let writers = Writers::of(ir);
    let mut c = Cutter {
        ir,
        frames,
        triggers,
        sites,
        options,
        may_be_dead,
        writers,
        arrived: HashMap::new(),
        crossings: Vec::new(),
    };
    // Nodes that are added on the way have edges too.
    let mut i = 0;
    while i < c.ir.nodes.len() {
        c.cut_inputs(i)?;
        i += 1;
    }
    Ok(c.crossings)
}

impl Cutter<'_> {
    fn cut_inputs(&mut self, i: usize) -> Result<()> {
        let Some(n) = self.ir.node(i) else { return Ok(()) };
        let device = n.device;
        let away = |ir: &Ir, from: usize| ir.node(from).is_some_and(|f| f.device != device);
        for k in 0..n.inputs.len() {
            let Some(n) = self.ir.node(i) else { break };
            let Source::Node { node: from, output } = n.inputs[k] else {
                continue;
            };
            if !away(self.ir, from) {
                continue;
            }
            self.check_may_cross(i, k, from, output)?;
            let here = match self.late_reading(i, k, from, output)? {
                Some(reader) => self.bring(reader, 0, device)?,
                None => self.bring(from, output, device)?,
            };
            if let Some(n) = &mut self.ir.nodes[i] {
                n.inputs[k] = here;
            }
        }
        let controls = self.ir.node(i).map(|n| n.control.clone()).unwrap_or_default();
        for (k, from) in controls.into_iter().enumerate() {
            if away(self.ir, from) {
                let here = self.bring_token(from, device)?;
                if let Some(n) = &mut self.ir.nodes[i] {
                    n.control[k] = here;
                }
            }
        }
        Ok(())
    }

    fn check_may_cross(&self, i: usize, k: usize, from: usize, output: usize) -> Result<()> {
        let (Some(n), Some(f)) = (self.ir.node(i), self.ir.node(from)) else {
            return Err(Error::internal("an edge comes from no node"));
        };
        let (here, there) = (&self.sites[n.device], &self.sites[f.device]);
        let what = if n.input_refs[k] {
            "a reference to a variable"
        } else if f.output_types[output] == DType::Resource && here.process != there.process {
            "a handle of a resource"
        } else {
            return Ok(());
        };
        Err(n.blame(Error::invalid(format!(
            "input {k} of node {:?} on {} is {what} from node {:?} on {}, which cannot leave its device; place both \
             nodes on one device, or colocate them",
            n.name, here.name, f.name, there.name
        ))))
    }

    /// A variable that is read through a reference at the time when its reader runs must not be sent before that: the
    /// node that reads it then, if a node that comes before the reader writes it.
    fn late_reading(&mut self, i: usize, k: usize, from: usize, output: usize) -> Result<Option<usize>> {
        let reference = Source::Node { node: from, output };
        let (Some(n), Some(f)) = (self.ir.node(i), self.ir.node(from)) else {
            return Ok(None);
        };
        if !self.ir.is_ref(reference) || !self.writers.come_before(self.ir, reference, i) {
            return Ok(None);
        }
        let mut reader = IrNode {
            name: format!("{}/_late{i}_{k}", f.name).into(),
            def: registry().get("Identity")?,
            attrs: Attrs::new(),
            inputs: vec![reference],
            input_types: vec![f.output_types[output]],
            input_refs: vec![false],
            control: n.control.clone(),
            output_types: vec![f.output_types[output]],
            output_refs: vec![false],
            output_shapes: vec![f.output_shapes[output].clone()],
            location: f.location,
            parts: Default::default(),
            device: f.device,
            target: false,
            pinned: false,
        };
        reader.attrs.set("T", f.output_types[output]);
        reader.control.extend(n.producers().filter(|p| *p != from));
        let frame = self.frames.out[from];
        let reader = self.ir.add(reader);
        self.frames.note(frame, frame);
        Ok(Some(reader))
    }

    /// The output, on another device.
    fn bring(&mut self, from: usize, output: usize, device: usize) -> Result<Source> {
        let key = ((from, output), device);
        if let Some(node) = self.arrived.get(&key) {
            return Ok(Source::Node { node: *node, output: 0 });
        }
        let node = match self.twin(from, device) {
            Some(twin) => twin,
            None => self.send(from, output, device)?,
        };
        self.arrived.insert(key, node);
        Ok(Source::Node { node, output: 0 })
    }

    /// A small constant is made on the other device too.
    fn twin(&mut self, from: usize, device: usize) -> Option<usize> {
        let n = self.ir.node(from)?;
        let small = n.attrs.tensor("value").is_ok_and(|t| t.byte_size() <= SMALL);
        if n.def.name() != CONST || !n.control.is_empty() || self.frames.out[from] != OUTSIDE || !small {
            return None;
        }
        let twin = IrNode {
            name: format!("{}/_on{device}", n.name).into(),
            device,
            target: false,
            pinned: false,
            ..n.clone()
        };
        let twin = self.ir.add(twin);
        self.frames.note(OUTSIDE, OUTSIDE);
        Some(twin)
    }

    /// A node on `device` that finishes after `from` has.
    fn bring_token(&mut self, from: usize, device: usize) -> Result<usize> {
        const CONTROL: usize = usize::MAX;
        if let Some(node) = self.arrived.get(&((from, CONTROL), device)) {
            return Ok(*node);
        }
        let Some(f) = self.ir.node(from) else {
            return Err(Error::internal("a control edge comes from no node"));
        };
        let sign = token(format!("{}/_done{device}", f.name), f.device, vec![from])?;
        let frame = self.frames.out[from];
        let sign = self.ir.add(sign);
        self.frames.note(frame, frame);
        let node = self.send(sign, 0, device)?;
        if let Some(c) = self.crossings.last_mut() {
            c.tensor = self.ir.node(from).map_or_else(String::new, |f| format!("^{}", f.name));
        }
        self.arrived.insert(((from, CONTROL), device), node);
        Ok(node)
    }

    fn send(&mut self, from: usize, output: usize, device: usize) -> Result<usize> {
        let Some(f) = self.ir.node(from) else {
            return Err(Error::internal("an edge comes from no node"));
        };
        let (there, dtype, name) = (f.device, f.output_types[output], f.name.clone());
        let shape = f.output_shapes[output].clone();
        let lossy = f.attrs.bool("_lossy").unwrap_or(self.options.lossy)
            && dtype == DType::F32
            && self.sites[there].process != self.sites[device].process;
        let frame = self.frames.out[from];
        let source = Source::Node { node: from, output };
        let (source, wire) = match lossy {
            true => (
                self.cast(
                    source,
                    DType::F32,
                    DType::BF16,
                    &shape,
                    format!("{name}/_narrow"),
                    there,
                    frame,
                )?,
                DType::BF16,
            ),
            false => (source, dtype),
        };
        let edge = self.crossings.len();
        let number = i64::try_from(edge).map_err(|_| Error::exhausted("too many edges between devices"))?;
        let mut send = bare("_Send", format!("{name}/_send{edge}"), there)?;
        let mut recv = bare("_Recv", format!("{name}/_recv{edge}"), device)?;
        send.attrs.set("T", wire);
        recv.attrs.set("tensor_type", wire);
        recv.attrs.set("shape", shape.clone());
        for n in [&mut send, &mut recv] {
            n.attrs.set("edge", number);
            n.attrs.set("tensor_name", format!("{name}:{output}"));
            n.attrs.set("send_device", self.sites[there].name.to_string());
            n.attrs.set("recv_device", self.sites[device].name.to_string());
            n.attrs.set("send_device_incarnation", 0i64);
            n.attrs.set("may_be_dead", self.may_be_dead);
            n.location = self.ir.node(from).and_then(|f| f.location);
        }
        send.inputs = vec![source];
        send.input_types = vec![wire];
        send.input_refs = vec![false];
        send.target = true;
        recv.output_types = vec![wire];
        recv.output_refs = vec![false];
        recv.output_shapes = vec![shape.clone()];
        if frame != OUTSIDE {
            let trigger = self.triggers.get(&(frame, device)).ok_or_else(|| {
                Error::internal(format!(
                    "loop {:?} has no control loop on {}",
                    self.frames.list[frame].name, self.sites[device].name
                ))
            })?;
            recv.control.push(*trigger);
        }
        self.ir.add(send);
        self.frames.note(frame, frame);
        let recv = self.ir.add(recv);
        self.frames.note(frame, frame);
        self.crossings.push(Crossing {
            from: there,
            to: device,
            tensor: format!("{name}:{output}"),
            dtype: wire,
        });
        if !lossy {
            return Ok(recv);
        }
        let source = Source::Node { node: recv, output: 0 };
        match self.cast(
            source,
            DType::BF16,
            DType::F32,
            &shape,
            format!("{name}/_widen{edge}"),
            device,
            frame,
        )? {
            Source::Node { node, .. } => Ok(node),
            Source::Feed(_) => Err(Error::internal("a cast is a node")),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn cast(
        &mut self,
        of: Source,
        from: DType,
        to: DType,
        shape: &PartialShape,
        name: String,
        device: usize,
        frame: usize,
    ) -> Result<Source> {
        let mut n = bare("Cast", name, device)?;
        n.attrs.set("SrcT", from);
        n.attrs.set("DstT", to);
        n.inputs = vec![of];
        n.input_types = vec![from];
        n.input_refs = vec![false];
        n.output_types = vec![to];
        n.output_refs = vec![false];
        n.output_shapes = vec![shape.clone()];
        let node = self.ir.add(n);
        self.frames.note(frame, frame);
        Ok(Source::Node { node, output: 0 })
    }
}
