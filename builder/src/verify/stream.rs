//! Samples on their way: read by one thread, asked by several, received in order by the caller.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use super::VerifyOptions;
use super::data::{Sample, TestSet};
use super::error::VerifyError;
use crate::inference::{ModelSpec, Tensor};
use crate::progress::Progress;

/// A sample that was answered.
#[derive(Debug)]
pub(super) struct Answered {
    /// The sample's name.
    pub sample: String,
    /// What is expected.
    pub expected: Vec<Tensor>,
    /// What came.
    pub actual: Vec<Tensor>,
}

/// What streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream<'a> {
    pub set: &'a TestSet,
    /// The model in whose names the set is.
    pub model: &'a ModelSpec,
    pub options: &'a VerifyOptions,
}

type Pair = (Vec<Tensor>, Vec<Tensor>);
type Numbered<T> = (u64, Result<T, VerifyError>);

impl Stream<'_> {
    /// Reads samples, asks for each by several threads at a time, and receives the answers in the samples' order.
    ///
    /// No more than a few samples for each thread are held at a time.
    pub fn run(
        &self,
        progress: &Progress,
        ask: impl Fn(&Sample) -> Result<Pair, VerifyError> + Sync,
        mut receive: impl FnMut(Answered) -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        let samples = self.set.samples(self.model, self.options.batch)?;
        let total = self.set.len_hint().or_else(|| samples.size_hint().1.map(|count| count as u64));
        let task = progress.count("samples", total);
        let clients = self.options.clients.max(1);
        // A sample takes a permit when it is read and gives it back when it was received.
        let (permit, permits) = sync_channel::<()>(4 * clients);
        let (read, to_ask) = sync_channel::<Numbered<Sample>>(clients);
        let (asked, answers) = sync_channel::<Numbered<Answered>>(clients);
        // The clients alone hold it: when the last one ends, the reader does too, even while it waits for room.
        let to_ask = Arc::new(Mutex::new(to_ask));
        std::thread::scope(|scope| {
            scope.spawn(move || read_all(samples, &permit, &read));
            for _ in 0..clients {
                let (asked, to_ask, ask) = (asked.clone(), Arc::clone(&to_ask), &ask);
                scope.spawn(move || ask_all(&to_ask, asked, ask));
            }
            drop((asked, to_ask));
            let result = receive_in_order(&answers, &permits, |answered| {
                task.advance(1);
                receive(answered)
            });
            // The threads end when nobody takes their permits and answers any more.
            drop((permits, answers));
            result
        })
    }
}

fn read_all(
    samples: impl Iterator<Item = Result<Sample, VerifyError>>,
    permit: &SyncSender<()>,
    read: &SyncSender<Numbered<Sample>>,
) {
    for (number, sample) in (0..).zip(samples) {
        if permit.send(()).is_err() || read.send((number, sample)).is_err() {
            return;
        }
    }
}

fn ask_all(
    to_ask: &Mutex<Receiver<Numbered<Sample>>>,
    asked: SyncSender<Numbered<Answered>>,
    ask: &(impl Fn(&Sample) -> Result<Pair, VerifyError> + Sync),
) {
    loop {
        let next = to_ask.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
        let Ok((number, sample)) = next else { return };
        let answered = sample.and_then(|sample| {
            let (expected, actual) = ask(&sample)?;
            Ok(Answered { sample: sample.name, expected, actual })
        });
        if asked.send((number, answered)).is_err() {
            return;
        }
    }
}

fn receive_in_order(
    answers: &Receiver<Numbered<Answered>>,
    permits: &Receiver<()>,
    mut receive: impl FnMut(Answered) -> Result<(), VerifyError>,
) -> Result<(), VerifyError> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    while let Ok((number, answered)) = answers.recv() {
        waiting.insert(number, answered);
        while let Some(answered) = waiting.remove(&next) {
            receive(answered?)?;
            next += 1;
            let _ = permits.recv();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::inference::{Datatype, TensorSpec};

    #[test]
    fn an_error_ends_the_stream_while_samples_wait_to_be_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("set.jsonl");
        let line = "{\"inputs\": [{\"name\": \"x\", \"datatype\": \"FP32\", \"shape\": [1], \"data\": [1]}]}\n";
        std::fs::write(&file, line.repeat(200)).expect("a file");
        let (end, ended) = channel();
        std::thread::spawn(move || {
            let set = TestSet::open(&file).expect("a test set");
            let spec = TensorSpec { name: "x".to_owned(), datatype: Datatype::Fp32, shape: vec![1] };
            let model = ModelSpec { name: "m".to_owned(), inputs: vec![spec], outputs: Vec::new() };
            let stream = Stream { set: &set, model: &model, options: &VerifyOptions { batch: 1, clients: 2 } };
            let ask = |_: &Sample| {
                std::thread::sleep(Duration::from_millis(5));
                Ok((Vec::new(), Vec::new()))
            };
            let result = stream.run(&Progress::silent(), ask, |_| Err(VerifyError::Empty { path: file.clone() }));
            let _ = end.send(result.is_err());
        });
        assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(true));
    }
}
