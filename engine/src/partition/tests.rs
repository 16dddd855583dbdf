//! Dividing, and running what was divided.
