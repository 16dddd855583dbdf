//! Which worker reads which file.

use actorflow_core::{Error, Result};

/// # Errors
/// `INVALID_ARGUMENT` unless `index` is below `workers`.
pub(super) fn check(workers: usize, index: usize) -> Result<()> {
    match index < workers {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "there is no worker {index} among {workers}; they count from 0"
        ))),
    }
}

/// The files of worker `index`: file `i` is worker `i % workers`'s. All workers must have the same list.
///
/// # Errors
/// `INVALID_ARGUMENT` unless `index` is below `workers`; `FAILED_PRECONDITION` if there is no file for it.
pub fn for_worker<T: Clone>(files: &[T], workers: usize, index: usize) -> Result<Vec<T>> {
    check(workers, index)?;
    let own: Vec<T> = files.iter().skip(index).step_by(workers).cloned().collect();
    match own.is_empty() {
        false => Ok(own),
        true => Err(Error::failed_precondition(format!(
            "worker {index} of {workers} has nothing to read, because there are {} files: make more files of the data, \
             or use fewer workers",
            files.len()
        ))),
    }
}

/// The names of the shards of a file, as TensorFlow's tools name them: `train-00000-of-00010`.
pub fn names(basename: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |i| format!("{basename}-{i:05}-of-{count:05}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::Code;

    #[test]
    fn each_file_has_one_reader() {
        let files: Vec<String> = names("f", 7).collect();
        assert_eq!(files[3], "f-00003-of-00007");
        let mut all: Vec<String> = (0..3).flat_map(|w| for_worker(&files, 3, w).unwrap()).collect();
        all.sort();
        assert_eq!(all, files);
        assert_eq!(for_worker(&[0, 1, 2, 3, 4], 2, 1).unwrap(), [1, 3]);
    }

    #[test]
    fn a_worker_without_files_is_told_so() {
        assert_eq!(for_worker(&[1], 2, 1).unwrap_err().code(), Code::FailedPrecondition);
        assert_eq!(for_worker(&[1], 2, 2).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(for_worker(&[1], 0, 0).unwrap_err().code(), Code::InvalidArgument);
    }
}
