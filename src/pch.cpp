// Holds nothing: the target exists so that the precompiled torch header is built once.
