"""A float32 graph in another precision: float16, or int8 between Q/DQ nodes. The precision is written into the ONNX.

graph        which nodes carry weights, what stands before, between and after them
half         float16 with float32 where it is needed, types and Casts written out
int8         Q/DQ nodes from ONNX Runtime's static quantisation
calibration  good training images, on which int8's ranges are found
loss         what a precision costs against float32, on held-out images and their stained copies
peaks        the largest value of every tensor
give_back    layers that cost too much return to float32
convert      all of it: a graph in, a graph and its measured loss out
"""
