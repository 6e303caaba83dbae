"""Raw logs into events, by decoders made from the contracts' exported ABIs."""
