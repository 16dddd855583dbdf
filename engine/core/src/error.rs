//! The one error type of the engine.

use std::fmt;
use std::panic::Location;

/// The result of everything in Actorflow that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Canonical status codes; the names and meanings are TensorFlow's (and gRPC's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The run was cancelled, by its caller or because another part of it failed.
    Cancelled,
    /// An error that fits no other code.
    Unknown,
    /// An argument, attribute, feed or graph that can never be right.
    InvalidArgument,
    /// The run did not finish before its deadline.
    DeadlineExceeded,
    /// A name (node, tensor, variable, file) that does not exist.
    NotFound,
    /// A name that exists already.
    AlreadyExists,
    /// The caller's role or the task's allow-list forbids it.
    PermissionDenied,
    /// A budget (memory, frames, connections) is used up.
    ResourceExhausted,
    /// Right in itself, but not in the present state: an uninitialised variable, a closed session.
    FailedPrecondition,
    /// The work was given up and may be tried again (a peer restarted).
    Aborted,
    /// Past the end: a closed and empty queue, an exhausted reader.
    OutOfRange,
    /// The operation, or this dtype of it, has no implementation.
    Unimplemented,
    /// A broken invariant of the engine, or a kernel that panicked.
    Internal,
    /// A task or service cannot be reached now.
    Unavailable,
    /// Data that is corrupt or lost for good.
    DataLoss,
    /// The peer has no valid identity.
    Unauthenticated,
}

impl Code {
    /// The upper-case name, as TensorFlow and gRPC print it: `INVALID_ARGUMENT`.
    pub fn name(self) -> &'static str {
        match self {
            Code::Cancelled => "CANCELLED",
            Code::Unknown => "UNKNOWN",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::Aborted => "ABORTED",
            Code::OutOfRange => "OUT_OF_RANGE",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::DataLoss => "DATA_LOSS",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    message: String,
    op: Option<String>,
    node: Option<String>,
    device: Option<String>,
    task: Option<String>,
    location: Option<&'static Location<'static>>,
    derived: bool,
}

/// What went wrong, and where: a canonical [`Code`], a message that names the thing and the cure, and, as far as
/// known, the operation, the graph node, the device, the task and the source line that built the node.
#[derive(Clone)]
pub struct Error(Box<Inner>);

impl Error {
    /// A new error of `code`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            code,
            message: message.into(),
            op: None,
            node: None,
            device: None,
            task: None,
            location: None,
            derived: false,
        }))
    }

    /// The canonical code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message, without the node, device and task.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The operation type (`MatMul`) that failed, if one did.
    pub fn op(&self) -> Option<&str> {
        self.0.op.as_deref()
    }

    /// The graph node that failed, if one did.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// The device on which it failed, if known.
    pub fn device(&self) -> Option<&str> {
        self.0.device.as_deref()
    }

    /// The cluster task in which it failed, if known.
    pub fn task(&self) -> Option<&str> {
        self.0.task.as_deref()
    }

    /// The line of the caller's source that built the failing node, if known.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.0.location
    }

    /// Whether this is only a consequence of another error of the same run (everything cancelled by the first one).
    pub fn is_derived(&self) -> bool {
        self.0.derived
    }

    /// Marks the error as a consequence of another one.
    pub fn derived(mut self) -> Self {
        self.0.derived = true;
        self
    }

    /// Names the node and its operation type, unless an inner error has named one already.
    pub fn at_node(mut self, node: &str, op: &str) -> Self {
        if self.0.node.is_none() {
            self.0.node = Some(node.to_owned());
            self.0.op = Some(op.to_owned());
        }
        self
    }

    /// Names the device, unless named already.
    pub fn on_device(mut self, device: &str) -> Self {
        self.0.device.get_or_insert_with(|| device.to_owned());
        self
    }

    /// Names the task, unless named already.
    pub fn in_task(mut self, task: &str) -> Self {
        self.0.task.get_or_insert_with(|| task.to_owned());
        self
    }

    /// Names the task, whatever name was given before: for whoever knows the task's name better than the wire does.
    pub fn of_task(mut self, task: &str) -> Self {
        self.0.task = Some(task.to_owned());
        self
    }

    /// Names the source line that built the node, unless named already.
    pub fn built_at(mut self, location: &'static Location<'static>) -> Self {
        self.0.location.get_or_insert(location);
        self
    }

    /// Puts `context` and a colon before the message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $fn:ident => $code:ident;)*) => {
        impl Error {
            $($(#[$doc])* pub fn $fn(message: impl Into<String>) -> Self {
                Error::new(Code::$code, message)
            })*
        }
    };
}

constructors! {
    /// [`Code::InvalidArgument`].
    invalid => InvalidArgument;
    /// [`Code::NotFound`].
    not_found => NotFound;
    /// [`Code::AlreadyExists`].
    already_exists => AlreadyExists;
    /// [`Code::FailedPrecondition`].
    failed_precondition => FailedPrecondition;
    /// [`Code::OutOfRange`].
    out_of_range => OutOfRange;
    /// [`Code::Unimplemented`].
    unimplemented => Unimplemented;
    /// [`Code::Internal`].
    internal => Internal;
    /// [`Code::ResourceExhausted`].
    exhausted => ResourceExhausted;
    /// [`Code::Cancelled`].
    cancelled => Cancelled;
    /// [`Code::DeadlineExceeded`].
    deadline => DeadlineExceeded;
    /// [`Code::DataLoss`].
    data_loss => DataLoss;
    /// [`Code::Unavailable`].
    unavailable => Unavailable;
    /// [`Code::Unauthenticated`].
    unauthenticated => Unauthenticated;
    /// [`Code::PermissionDenied`].
    permission_denied => PermissionDenied;
    /// [`Code::Aborted`].
    aborted => Aborted;
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        write!(f, "{}: {}", e.code, e.message)?;
        let mut parts = Vec::new();
        match (&e.node, &e.op) {
            (Some(n), Some(o)) => parts.push(format!("node {n} = {o}")),
            (Some(n), None) => parts.push(format!("node {n}")),
            _ => {}
        }
        if let Some(d) = &e.device {
            parts.push(format!("device {d}"));
        }
        if let Some(t) = &e.task {
            parts.push(format!("task {t}"));
        }
        if let Some(l) = e.location {
            parts.push(format!("built at {}:{}:{}", l.file(), l.line(), l.column()));
        }
        if !parts.is_empty() {
            write!(f, " [{}]", parts.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let code = match e.kind() {
            K::NotFound => Code::NotFound,
            K::PermissionDenied => Code::PermissionDenied,
            K::AlreadyExists => Code::AlreadyExists,
            K::InvalidData | K::UnexpectedEof => Code::DataLoss,
            K::StorageFull | K::OutOfMemory => Code::ResourceExhausted,
            _ => Code::Unknown,
        };
        Error::new(code, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_code_message_and_place() {
        let e = Error::invalid("bad shape")
            .at_node("a/MatMul", "MatMul")
            .at_node("outer", "X")
            .on_device("/cpu:0");
        assert_eq!(
            e.to_string(),
            "INVALID_ARGUMENT: bad shape [node a/MatMul = MatMul, device /cpu:0]"
        );
    }
}
