//! Sounds: WAV files, spectrograms and what speech recognition makes of them.

pub mod mfcc;
pub mod spectrogram;
pub mod wav;
