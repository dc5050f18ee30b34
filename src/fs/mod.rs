//! The filesystem: names, inodes, handles, read-ahead. Knows neither fuser nor the network.
